// A plugin for qemu-aarch64 (plugin interface 1: QEMU 6.0 to 8.1) that counts what `lutbench --marks` executes, layer by
// layer: instructions by class, decoded from their encoding (Arm ARM, DDI 0487, C4.1), and misses of a model of the
// data caches of one Snapdragon 865 core: 64 KiB 4-way, 512 KiB 8-way, 4 MiB 16-way, LRU, lines of 64 bytes, stores
// allocate, nothing is prefetched. The same program on the same input gives the same counts on any machine.
//
// Argument: out=FILE, a line of column names and one line for each layer.
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The part of QEMU's plugin interface that is used here.
typedef uint64_t plugin_id;
struct tb;
struct insn;
enum { NO_REGISTERS = 0, READS_AND_WRITES = 3 };
extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, void (*)(plugin_id, struct tb *));
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct tb *, void (*)(unsigned, void *), int, void *);
extern void qemu_plugin_register_vcpu_mem_cb(struct insn *, void (*)(unsigned, uint32_t, uint64_t, void *), int, int,
                                             void *);
typedef void on_syscall(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                        uint64_t, uint64_t);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, on_syscall *);
extern void qemu_plugin_register_atexit_cb(plugin_id, void (*)(plugin_id, void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct tb *);
extern struct insn *qemu_plugin_tb_get_insn(const struct tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct insn *);
extern unsigned qemu_plugin_mem_size_shift(uint32_t);
__attribute__((visibility("default"))) int qemu_plugin_version = 1;

enum { MARK_SYSCALL = 0x5afe, MARK_START = 0, MARK_LAYER = 1, MARK_END = 2 }; // as in lutbench.cpp

enum count {
    INSTRUCTIONS,
    VECTOR_FMA,   // fmla, fmls on vectors
    VECTOR_OTHER, // any other operation on vectors, moves and permutations too
    SCALAR_FP,    // operations on one element of a vector register
    VECTOR_LOAD,  // registers of any width, not instructions: ld4 is 4, ldp 2
    VECTOR_STORE,
    SCALAR_LOAD, // instructions
    SCALAR_STORE,
    PREFETCH,
    BRANCH, // and system instructions
    L1_MISS,
    L2_MISS,
    L3_MISS,
    NUM_COUNTS
};
static const char *const names[NUM_COUNTS] = {
    "instructions", "vector_fma",   "vector_other", "scalar_fp", "vector_load", "vector_store", "scalar_load",
    "scalar_store", "prefetch",     "branch",       "l1_miss",   "l2_miss",     "l3_miss",
};

enum { LINE_SHIFT = 6, NUM_LEVELS = 3 };
struct cache {
    uint64_t sets, ways;
    uint64_t *lines; // of each set, the latest first; 0 is empty
};

static struct cache levels[NUM_LEVELS];
static uint64_t counts[NUM_COUNTS];
static uint64_t latest_line;
static FILE *out;

static void make_cache(struct cache *cache, uint64_t kib, uint64_t ways)
{
    cache->ways = ways;
    cache->sets = (kib << 10 >> LINE_SHIFT) / ways;
    cache->lines = calloc(cache->sets * ways, sizeof *cache->lines);
}

static bool touch(struct cache *cache, uint64_t line)
{
    uint64_t *set = cache->lines + line % cache->sets * cache->ways;
    uint64_t way = 0;
    while (way < cache->ways - 1 && set[way] != line)
        way++;
    bool hit = set[way] == line;
    memmove(set + 1, set, way * sizeof *set);
    set[0] = line;
    return hit;
}

static void access_line(uint64_t line)
{
    if (line == latest_line)
        return;
    latest_line = line;
    for (int level = 0; level < NUM_LEVELS && !touch(&levels[level], line); level++)
        counts[L1_MISS + level]++;
}

static void on_access(unsigned cpu, uint32_t info, uint64_t address, void *unused)
{
    uint64_t last = address + (1u << qemu_plugin_mem_size_shift(info)) - 1;
    access_line((address >> LINE_SHIFT) + 1); // 0 means an empty way
    if (last >> LINE_SHIFT != address >> LINE_SHIFT)
        access_line((last >> LINE_SHIFT) + 1);
}

static unsigned bits(uint32_t word, int high, int low)
{
    return word >> low & ((1u << (high - low + 1)) - 1);
}

// Vector registers that a SIMD load or store moves.
static unsigned registers_moved(uint32_t word)
{
    static const unsigned char by_opcode[16] = {[0] = 4, [2] = 4, [4] = 3, [6] = 3, [7] = 1, [8] = 2, [10] = 2};
    if (bits(word, 29, 24) == 0x0C) // multiple structures
        return by_opcode[bits(word, 15, 12)];
    if (bits(word, 29, 24) == 0x0D) // single structure
        return (bits(word, 13, 13) << 1 | bits(word, 21, 21)) + 1;
    return bits(word, 29, 27) == 5 ? 2 : 1; // a pair, or one
}

// Adds a load or store to `sum`; false if it does not access memory.
static bool count_memory(uint32_t word, uint32_t *sum)
{
    bool vector = bits(word, 26, 26);
    bool literal = bits(word, 29, 27) == 3 && !bits(word, 24, 24);
    bool plain = bits(word, 29, 27) == 7; // one register, any addressing
    if (!vector && ((plain && bits(word, 31, 30) == 3 && bits(word, 23, 22) == 2) || (literal && word >> 30 == 3))) {
        sum[PREFETCH]++;
        return false;
    }
    bool load = literal || (plain ? bits(word, 23, 22) != 0 && !(vector && bits(word, 23, 22) == 2) : bits(word, 22, 22));
    if (vector)
        sum[load ? VECTOR_LOAD : VECTOR_STORE] += registers_moved(word);
    else
        sum[load ? SCALAR_LOAD : SCALAR_STORE]++;
    return true;
}

// Adds an instruction to `sum`; true if it accesses memory.
static bool count_instruction(uint32_t word, uint32_t *sum)
{
    sum[INSTRUCTIONS]++;
    if (bits(word, 27, 27) && !bits(word, 25, 25))
        return count_memory(word, sum);
    if (bits(word, 28, 26) == 5)
        sum[BRANCH]++;
    if (bits(word, 27, 25) != 7)
        return false;
    bool by_vector = (word & 0xBF20FC00) == 0x0E20CC00;
    bool by_element = (word & 0xBF00B400) == 0x0F001000;
    if (by_vector || by_element)
        sum[VECTOR_FMA]++;
    else if (!bits(word, 31, 31) && !bits(word, 28, 28))
        sum[VECTOR_OTHER]++;
    else
        sum[SCALAR_FP]++;
    return false;
}

static void on_run(unsigned cpu, void *sum)
{
    for (int i = 0; i < NUM_COUNTS; i++)
        counts[i] += ((const uint32_t *)sum)[i];
}

static void on_translation(plugin_id id, struct tb *tb)
{
    uint32_t *sum = calloc(NUM_COUNTS, sizeof *sum); // lives as long as the code
    for (size_t i = 0; i < qemu_plugin_tb_n_insns(tb); i++) {
        struct insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(insn), sizeof word);
        if (count_instruction(word, sum))
            qemu_plugin_register_vcpu_mem_cb(insn, on_access, NO_REGISTERS, READS_AND_WRITES, NULL);
    }
    qemu_plugin_register_vcpu_tb_exec_cb(tb, on_run, NO_REGISTERS, sum);
}

static void on_mark(plugin_id id, unsigned cpu, int64_t number, uint64_t kind, uint64_t layer, uint64_t a3,
                    uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8)
{
    if (number != MARK_SYSCALL)
        return;
    if (kind == MARK_LAYER) {
        fprintf(out, "%" PRIu64, layer);
        for (int i = 0; i < NUM_COUNTS; i++)
            fprintf(out, "\t%" PRIu64, counts[i]);
        fprintf(out, "\n");
    }
    memset(counts, 0, sizeof counts);
}

static void on_exit_close(plugin_id id, void *unused)
{
    fclose(out);
}

__attribute__((visibility("default"))) int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
    if (argc != 1 || strncmp(argv[0], "out=", 4) || !(out = fopen(argv[0] + 4, "w"))) {
        fprintf(stderr, "lutcount: needs out=FILE, a file that can be written\n");
        return 1;
    }
    make_cache(&levels[0], 64, 4);
    make_cache(&levels[1], 512, 8);
    make_cache(&levels[2], 4096, 16);
    fprintf(out, "layer");
    for (int i = 0; i < NUM_COUNTS; i++)
        fprintf(out, "\t%s", names[i]);
    fprintf(out, "\n");
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_mark);
    qemu_plugin_register_atexit_cb(id, on_exit_close, NULL);
    return 0;
}
