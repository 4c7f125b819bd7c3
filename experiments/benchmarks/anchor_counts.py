"""What do the published networks execute on an Arm core? `python experiments/benchmarks/anchor_counts.py OUT.json`

Counts ncnn's kernels under qemu, block by block, for T at 448 and T, S and B at 512, and prints the unfitted time of
the Snapdragon 865 core model beside the published latency. Needs the extra `arm` and qemu-user; the counts are exact
and the same on every run.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path

from latency_lut.devices.qemu import NOTHING, count
from latency_lut.estimate import SNAPDRAGON_865
from latency_lut.payload.build import NCNN_SHA256, NCNN_VERSION, ZIG_VERSION, checksum, payload
from latency_lut.runtimes.ncnn import candidate_network
from topformer.config import ANCHORS, Candidate, Task
from topformer.published import LATENCY_PROTOCOL, PUBLISHED


def main() -> None:
    out = Path(sys.argv[1])
    networks = []
    for name, published in PUBLISHED.items():
        for side, published_ms in published.latency_ms.items():
            candidate = Candidate(arch=ANCHORS[name], task=Task(image_size=(side, side)))
            blocks = count(candidate_network(candidate))
            total = sum(blocks.values(), NOTHING)
            model_ms = SNAPDRAGON_865.milliseconds(total)
            extractor = sum((c for block, c in blocks.items() if block.startswith("transformer.")), NOTHING)
            networks.append(
                {
                    "network": name,
                    "image_px": side,
                    "published_ms": published_ms,
                    "unfitted_ms": model_ms,
                    "error_pct": 100 * (model_ms / published_ms - 1),
                    "extractor_share_pct": 100 * SNAPDRAGON_865.milliseconds(extractor) / model_ms,
                    "blocks": {block: asdict(counts) for block, counts in blocks.items()},
                }
            )
            print(f"{name} at {side} px: {model_ms:.1f} ms unfitted, published {published_ms} ms")
    content = {
        "ncnn": NCNN_VERSION,
        "ncnn_sha256": NCNN_SHA256,
        "compiler": f"ziglang {ZIG_VERSION}",
        "payload_sha256": checksum(payload()),
        "core_model": asdict(SNAPDRAGON_865),
        "published_protocol": LATENCY_PROTOCOL,
        "networks": networks,
    }
    out.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
