"""texture_patchify as a TensorRT plugin: in C++ (plugin.cpp) and in Python (plugin.py)."""
