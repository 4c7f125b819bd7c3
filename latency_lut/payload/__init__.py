"""The program that runs ncnn on an Arm core, the plugin that counts its instructions under QEMU, and how to build them.

`build.py` builds; the rest is C++, C and CMake.
"""
