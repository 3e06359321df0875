# Spack recipe of weft:
#   spack repo add slurm/spack
#   spack dev-build weft@main          in a checkout of weft
from spack.package import *


class Weft(CMakePackage):
    """Trains language models and runs MPI simulations in one job, on one site or across several."""

    license("Apache-2.0")

    version("main")  # the tree that `spack dev-build` or `spack develop` names

    variant("ucx", default=False, description="Messages between nodes over UCX")
    variant("http", default=True, description="Metrics endpoint of the hub")
    variant("spank", default=False, description="Options of srun, as a plugin of Slurm (GPL-2.0-or-later)")
    variant("benchmarks", default=False, description="Build the benchmarks")

    depends_on("c", type="build")
    depends_on("cmake@3.25:", type="build")
    depends_on("ninja", type="build")
    depends_on("pkgconfig", type="build")
    depends_on("mpi@3:")
    depends_on("hdf5+mpi")
    depends_on("libfyaml")
    depends_on("hwloc@2:")
    depends_on("jansson")
    depends_on("openssl@3:")
    depends_on("zstd")
    depends_on("zlib-api")
    depends_on("xxhash")
    depends_on("sqlite")
    depends_on("ucx", when="+ucx")
    depends_on("libmicrohttpd", when="+http")
    depends_on("slurm", when="+spank")
    depends_on("cmocka", type="test")

    generator("ninja")

    def cmake_args(self):
        return [
            self.define("WEFT_TESTS", self.run_tests),
            self.define("WEFT_WERROR", False),
            self.define_from_variant("WEFT_SPANK", "spank"),
            self.define_from_variant("WEFT_BENCHMARKS", "benchmarks"),
        ]

    @run_after("install")
    @on_package_attributes(run_tests=True)
    def check_install(self):
        Executable(join_path(self.prefix.bin, "weft"))("--version")
