"""Which core is it? What the payload's first line says of the core that it is pinned to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from topformer.errors import UserError

LONGEST_LABEL = 80
"""Characters of a SoC's name."""

_ARM = 0x41
_CORTEX = {
    0xD03: "Cortex-A53",
    0xD05: "Cortex-A55",
    0xD07: "Cortex-A57",
    0xD08: "Cortex-A72",
    0xD09: "Cortex-A73",
    0xD0A: "Cortex-A75",
    0xD0B: "Cortex-A76",
    0xD0C: "Neoverse-N1",
    0xD0D: "Cortex-A77",
    0xD41: "Cortex-A78",
    0xD44: "Cortex-X1",
    0xD46: "Cortex-A510",
    0xD47: "Cortex-A710",
    0xD48: "Cortex-X2",
    0xD4D: "Cortex-A715",
    0xD4E: "Cortex-X3",
    0xD81: "Cortex-A720",
    0xD82: "Cortex-X4",
}
"""Part numbers of Arm's own cores in the main ID register (MIDR)."""

_SNAPDRAGON_865 = ("snapdragon 865", "sm8250")
_SNAPDRAGON_865_PART = 0xD0D
_SNAPDRAGON_865_KHZ = 2_841_600
_LABEL_TOLERANCE = 0.01


@dataclass(frozen=True, kw_only=True, slots=True)
class Machine:
    """What the payload says of the core that it is pinned to; texts are empty where the kernel tells nothing."""

    core: int
    pinned: bool
    midr: int | None
    max_khz: int | None
    governor: str
    soc: str
    compiler: str

    @property
    def part(self) -> str:
        """As "Cortex-A77"."""
        if self.midr is None:
            return "unknown core"
        number = self.midr >> 4 & 0xFFF
        implementer = self.midr >> 24 & 0xFF
        known = _CORTEX.get(number) if implementer == _ARM else None
        return known or f"part 0x{number:03x} of implementer 0x{implementer:02x}"

    @property
    def label(self) -> str:
        """As "cpu7 (MIDR 0x411fd0d0, Cortex-A77)"."""
        midr = "unknown" if self.midr is None else f"0x{self.midr:08x}"
        return f"cpu{self.core} (MIDR {midr}, {self.part})"


def machine_of(line: Mapping[str, Any]) -> Machine:
    """Raises some error of Python's where the line is none of the payload's."""
    return Machine(
        core=int(line["core"]),
        pinned=line["pinned"] is True,
        midr=int(line["midr"], 16) if line["midr"] else None,
        max_khz=positive(line["max_khz"]),
        governor=printable(line["governor"]),
        soc=printable(line["soc"])[:LONGEST_LABEL],
        compiler=printable(line["compiler"]),
    )


def require_label(label: str, machine: Machine, device: str) -> None:
    """A Snapdragon 865 is known by its prime core; other names are taken as they are."""
    if " ".join(label.casefold().split()) not in _SNAPDRAGON_865:
        return
    right_part = machine.midr is not None and machine.midr >> 4 & 0xFFF == _SNAPDRAGON_865_PART
    right_speed = (
        machine.max_khz is not None
        and abs(machine.max_khz - _SNAPDRAGON_865_KHZ) <= _LABEL_TOLERANCE * _SNAPDRAGON_865_KHZ
    )
    if right_part and right_speed:
        return
    speed = f"{machine.max_khz:,} kHz" if machine.max_khz else "unknown frequency"
    raise UserError(
        f"--soc {label!r} is for a Cortex-A77 (MIDR part 0x{_SNAPDRAGON_865_PART:x}) of {_SNAPDRAGON_865_KHZ:,} kHz, "
        f"but {machine.label} of {device} has {speed}: leave --soc out, or choose the prime core with --core."
    )


def printable(text: str) -> str:
    """What a device says, without what would control a terminal."""
    return "".join(c if c.isprintable() else " " for c in text[:500]).strip()


def positive(text: object) -> int | None:
    """A file of the kernel's: None where it is empty or 0."""
    return int(text) if isinstance(text, str) and text.isdecimal() and text.isascii() and int(text) > 0 else None
