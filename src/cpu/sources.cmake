# The CPU kernels.
target_sources(bsk PRIVATE src/cpu/reference.cc)
