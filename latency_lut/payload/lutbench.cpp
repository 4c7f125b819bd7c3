// Runs ncnn networks on one core of an aarch64 Linux or Android machine and prints a line of JSON for the machine and
// one for each network. What it times or marks is every layer in the order of the .param file, inside the network.
//
//   lutbench [--core N] [OPTIONS] NET.param [OPTIONS] NET.param ...        an option holds for the networks behind it
//   lutbench @FILE                                                         arguments from a file, one in a line
//
// --core     pin to this core; without it, to the one with the highest maximum frequency (the last among equals)
// --warm     runs before those that count
// --runs     runs that count, at least; --burst-ms: and as many more until they have taken so long together
// --evict    bytes of memory to go through before each run, for a block that in its network finds the caches full of
//            other blocks' data; its inputs are then touched, as the layer before it would, but for those named far*
// --layers   also print the times of each layer, in microseconds
// --marks    tell a QEMU plugin by a system call without a meaning where each layer ends (see lutcount.c)
// --weights  ncnn's .bin; without it, weights are made up           --input, --output  float32, all blobs in a row
//
// Weights and inputs that are made up are the same in every run.
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <string>
#include <vector>

#include "cpu.h"
#include "datareader.h"
#include "layer.h"
#include "net.h"

namespace {

const long MARK_SYSCALL = 0x5afe; // no kernel has it: it fails with ENOSYS
enum Mark { MARK_START = 0, MARK_LAYER = 1, MARK_END = 2 };

const size_t LINE_BYTES = 64;
const int MAX_RUNS = 10000;

struct Settings {
    int core = -1;
    int warm = 1;
    int runs = 1;
    double burst_us = 0;
    size_t evict = 0;
    bool layers = false;
    bool marks = false;
    const char* weights = nullptr;
    const char* input = nullptr;
    const char* output = nullptr;
};

struct Job {
    Settings settings;
    const char* network;
};

uint32_t next_random(uint32_t* state)
{
    *state = *state * 1664525u + 1013904223u; // Numerical Recipes
    return *state >> 8;
}

// Uniform in [-1/16, 1/16): activations neither die nor overflow in networks of this size.
class MadeUpWeights : public ncnn::DataReader
{
public:
    int scan(const char*, void*) const override { return 0; }

    size_t read(void* buffer, size_t size) const override
    {
        float* values = static_cast<float*>(buffer);
        if (size == sizeof(float)) { // the tag before each array: 0 means float32
            values[0] = 0.f;
            return size;
        }
        for (size_t i = 0; i < size / sizeof(float); i++)
            values[i] = (static_cast<int>(next_random(&state_)) - (1 << 23)) / static_cast<float>(1 << 27);
        return size;
    }

private:
    mutable uint32_t state_ = 1;
};

// Index of the largest of all channels for each pixel, as a float; ncnn's own ArgMax looks at the whole blob.
class ChannelArgmax : public ncnn::Layer
{
public:
    ChannelArgmax()
    {
        one_blob_only = true;
        support_inplace = false;
    }

    int forward(const ncnn::Mat& bottom, ncnn::Mat& top, const ncnn::Option& options) const override
    {
        const int width = bottom.w;
        top.create(width, bottom.h, 1, sizeof(float), options.blob_allocator);
        if (top.empty())
            return -100;
        std::vector<float> best(width);
        for (int y = 0; y < bottom.h; y++) {
            float* labels = top.channel(0).row(y);
            memcpy(best.data(), bottom.channel(0).row(y), width * sizeof(float));
            memset(labels, 0, width * sizeof(float));
            for (int c = 1; c < bottom.c; c++) {
                const float* values = bottom.channel(c).row(y);
                const float label = static_cast<float>(c);
                for (int x = 0; x < width; x++) {
                    const bool larger = values[x] > best[x];
                    labels[x] = larger ? label : labels[x];
                    best[x] = larger ? values[x] : best[x];
                }
            }
        }
        return 0;
    }
};

ncnn::Layer* new_channel_argmax(void*) { return new ChannelArgmax; }

struct Input {
    std::string blob;
    ncnn::Mat values; // packed by four channels where they divide, as the layer before it would leave them
};

double now_us()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e6 + t.tv_nsec / 1e3;
}

// Reads and writes a word of every cache line.
void touch(void* memory, size_t bytes)
{
    for (size_t i = 0; i < bytes; i += LINE_BYTES) {
        volatile char* word = static_cast<char*>(memory) + i;
        *word = *word;
    }
}

std::string text_of(const std::string& path)
{
    std::string text;
    if (FILE* file = fopen(path.c_str(), "r")) {
        for (int c; (c = fgetc(file)) != EOF && c >= ' ';)
            if (c != '"' && c != '\\')
                text += static_cast<char>(c);
        fclose(file);
    }
    return text;
}

std::string of_cpu(int cpu, const char* name)
{
    return text_of("/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/" + name);
}

int fastest_cpu()
{
    int best = 0;
    long best_khz = -1;
    for (int cpu = 0; cpu < sysconf(_SC_NPROCESSORS_CONF); cpu++) {
        const long khz = atol(of_cpu(cpu, "cpufreq/cpuinfo_max_freq").c_str());
        if (khz >= best_khz) {
            best_khz = khz;
            best = cpu;
        }
    }
    return best;
}

// What a kernel for boards or Qualcomm's says of itself; Android's properties are read from outside.
std::string soc()
{
    const std::string board = text_of("/proc/device-tree/model");
    return board.empty() ? text_of("/sys/devices/soc0/machine") : board;
}

void print_machine(int core)
{
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(core, &only);
    const bool pinned = sched_setaffinity(0, sizeof only, &only) == 0;
    printf("{\"core\":%d,\"pinned\":%s,\"midr\":\"%s\",\"max_khz\":\"%s\",\"now_khz\":\"%s\",\"governor\":\"%s\","
           "\"l2_bytes\":%d,\"soc\":\"%s\",\"ncnn\":\"%s\",\"compiler\":\"%s\"}\n",
           core, pinned ? "true" : "false", of_cpu(core, "regs/identification/midr_el1").c_str(),
           of_cpu(core, "cpufreq/cpuinfo_max_freq").c_str(), of_cpu(core, "cpufreq/scaling_cur_freq").c_str(),
           of_cpu(core, "cpufreq/scaling_governor").c_str(), ncnn::get_cpu_level2_cache_size(), soc().c_str(),
           NCNN_VERSION_STRING, __VERSION__);
    fflush(stdout);
}

int fail(const char* network, const char* what)
{
    printf("{\"network\":\"%s\",\"error\":\"%s\"}\n", network, what);
    fflush(stdout);
    return 1;
}

// The values of every Input line of the .param text, from `file` or made up. False where the file is too short.
bool read_inputs(const char* network, FILE* file, const ncnn::Option& options, std::vector<Input>* inputs)
{
    FILE* text = fopen(network, "r");
    char line[1024], blob[256];
    uint32_t state = 2;
    bool complete = text != nullptr;
    while (text && fgets(line, sizeof line, text)) {
        int w, h, c;
        if (sscanf(line, "Input %*s 0 1 %255s 0=%d 1=%d 2=%d", blob, &w, &h, &c) != 4)
            continue;
        ncnn::Mat plain(w, h, c);
        for (int q = 0; q < c; q++) {
            float* values = plain.channel(q);
            if (file)
                complete &= fread(values, sizeof(float), w * h, file) == static_cast<size_t>(w * h);
            else
                for (int i = 0; i < w * h; i++)
                    values[i] = next_random(&state) / static_cast<float>(1 << 23) - 1.f;
        }
        Input input{blob, plain};
        if (c % 4 == 0)
            ncnn::convert_packing(plain, input.values, 4, options);
        inputs->push_back(input);
    }
    if (text)
        fclose(text);
    return complete;
}

void write_blob(FILE* file, const ncnn::Mat& blob)
{
    for (int q = 0; q < blob.c; q++)
        fwrite(blob.channel(q), sizeof(float), blob.w * blob.h * blob.d, file);
}

void mark(const Settings& settings, Mark kind, int layer)
{
    if (settings.marks)
        syscall(MARK_SYSCALL, static_cast<long>(kind), static_cast<long>(layer));
}

void print_times(const char* name, const std::vector<double>& times_us)
{
    printf("\"%s\":[", name);
    for (size_t i = 0; i < times_us.size(); i++)
        printf("%s%.2f", i ? "," : "", times_us[i]);
    printf("]");
}

int run(const Settings& settings, const char* path)
{
    ncnn::UnlockedPoolAllocator blobs;
    ncnn::UnlockedPoolAllocator workspace;
    ncnn::Net net;
    net.register_custom_layer("ChannelArgmax", new_channel_argmax);
    net.opt.num_threads = 1;
    net.opt.blob_allocator = &blobs; // with its own allocators ncnn copies every blob that is asked for
    net.opt.workspace_allocator = &workspace;
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = false;
    net.opt.use_bf16_storage = false;
    if (net.load_param(path))
        return fail(path, "ncnn does not accept the .param file");
    if (settings.weights ? net.load_model(settings.weights) : net.load_model(MadeUpWeights()))
        return fail(path, "ncnn does not accept the weights");
    std::vector<Input> inputs;
    FILE* given = settings.input ? fopen(settings.input, "rb") : nullptr;
    if ((settings.input && !given) || !read_inputs(path, given, net.opt, &inputs))
        return fail(path, "cannot read the inputs");
    if (given)
        fclose(given);

    const std::vector<ncnn::Layer*>& layers = net.layers();
    std::vector<double> total_us;
    std::vector<std::vector<double> > layer_us(layers.size());
    std::vector<char> others(settings.evict);
    double spent_us = 0;
    for (int i = 0; i < settings.warm + MAX_RUNS; i++) {
        const bool counts = i >= settings.warm;
        const bool last = i + 1 >= settings.warm + settings.runs && spent_us >= settings.burst_us;
        touch(others.data(), others.size());
        for (const Input& input : inputs)
            if (settings.evict && input.blob.compare(0, 3, "far") != 0)
                touch(input.values.data, input.values.total() * input.values.elemsize);
        ncnn::Extractor extractor = net.create_extractor();
        for (const Input& input : inputs)
            extractor.input(input.blob.c_str(), input.values);
        if (counts)
            mark(settings, MARK_START, 0);
        const double start = now_us();
        double before = start;
        for (size_t l = 0; l < layers.size(); l++) {
            if (layers[l]->bottoms.empty())
                continue; // an input
            ncnn::Mat blob; // gone before the next layer, which may then reuse the memory
            if (extractor.extract(layers[l]->tops[0], blob, 1))
                return fail(path, "inference failed");
            if (!counts)
                continue;
            mark(settings, MARK_LAYER, static_cast<int>(l));
            if (settings.layers) {
                const double after = now_us();
                layer_us[l].push_back(after - before);
                before = after;
            }
        }
        const double end = now_us();
        if (counts) {
            mark(settings, MARK_END, 0);
            total_us.push_back(end - start);
            spent_us += end - start;
        }
        if (!last)
            continue;
        if (settings.output) {
            FILE* file = fopen(settings.output, "wb");
            if (!file)
                return fail(path, "cannot write the output");
            for (int index : net.output_indexes()) {
                ncnn::Mat blob;
                extractor.extract(index, blob);
                write_blob(file, blob);
            }
            fclose(file);
        }
        break;
    }
    const int core = sched_getcpu();
    printf("{\"network\":\"%s\",\"core\":%d,\"now_khz\":\"%s\",", path, core,
           of_cpu(core, "cpufreq/scaling_cur_freq").c_str());
    print_times("total_us", total_us);
    if (settings.layers) {
        printf(",\"layers\":{");
        bool first = true;
        for (size_t l = 0; l < layers.size(); l++) {
            if (layer_us[l].empty())
                continue;
            if (!first)
                printf(",");
            first = false;
            print_times(layers[l]->name.c_str(), layer_us[l]);
        }
        printf("}");
    }
    printf("}\n");
    fflush(stdout);
    return 0;
}

// False for a word that is not understood, or a number that is not one.
bool parse(const std::vector<std::string>& words, std::vector<Job>* jobs)
{
    Settings settings;
    for (size_t i = 0; i < words.size(); i++) {
        const std::string& name = words[i];
        if (name == "--layers") {
            settings.layers = true;
            continue;
        }
        if (name == "--marks") {
            settings.marks = true;
            continue;
        }
        if (name.compare(0, 2, "--") != 0) {
            jobs->push_back(Job{settings, name.c_str()});
            continue;
        }
        if (i + 1 == words.size())
            return false;
        const char* value = words[++i].c_str();
        if (name == "--weights")
            settings.weights = value;
        else if (name == "--input")
            settings.input = value;
        else if (name == "--output")
            settings.output = value;
        else {
            char* end;
            const double number = strtod(value, &end);
            if (end == value || *end || number < 0)
                return false;
            if (name == "--core")
                settings.core = static_cast<int>(number);
            else if (name == "--warm")
                settings.warm = static_cast<int>(number);
            else if (name == "--runs")
                settings.runs = static_cast<int>(number);
            else if (name == "--burst-ms")
                settings.burst_us = 1e3 * number;
            else if (name == "--evict")
                settings.evict = static_cast<size_t>(number);
            else
                return false;
        }
    }
    for (const Job& job : *jobs)
        if (job.settings.runs < 1 || job.settings.core != jobs->front().settings.core)
            return false;
    return !jobs->empty();
}

bool words_of(const char* path, std::vector<std::string>* words)
{
    FILE* file = fopen(path, "r");
    std::string word;
    for (int c; file && (c = fgetc(file)) != EOF;) {
        if (c != '\n') {
            word += static_cast<char>(c);
            continue;
        }
        if (!word.empty())
            words->push_back(word);
        word.clear();
    }
    if (!word.empty())
        words->push_back(word);
    if (file)
        fclose(file);
    return file != nullptr;
}

} // namespace

int main(int argc, char** argv)
{
    std::vector<std::string> words(argv + 1, argv + argc);
    if (argc == 2 && argv[1][0] == '@') {
        words.clear();
        if (!words_of(argv[1] + 1, &words)) {
            fprintf(stderr, "lutbench: cannot read %s\n", argv[1] + 1);
            return 2;
        }
    }
    std::vector<Job> jobs;
    if (!parse(words, &jobs)) {
        fprintf(stderr, "usage: lutbench [--core N] [--warm N] [--runs N] [--burst-ms N] [--evict BYTES] [--layers] "
                        "[--marks] [--weights FILE] [--input FILE] [--output FILE] NETWORK.param ...\n");
        return 2;
    }
    const int core = jobs.front().settings.core;
    print_machine(core < 0 ? fastest_cpu() : core);
    int failures = 0;
    for (const Job& job : jobs)
        failures += run(job.settings, job.network);
    return failures ? 1 : 0;
}
