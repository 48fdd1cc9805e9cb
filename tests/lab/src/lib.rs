//! Stock kernels in QEMU, clusters in namespaces, and the machines' packages.
