"""The folder of unpacked Debian packages that scripts/gpu-check needs on a machine that can fetch nothing: made here with
apt-get download and dpkg -x (no root), used there through the variables of environment()."""
import os
import pathlib
import re
import shutil
import subprocess
import sys

# What a machine with a compiler has; everything else that a library needs must be in the folder.
BASE = re.compile(r"^(ld-linux.*|lib(c|m|pthread|dl|rt|util|resolv|gcc_s|stdc\+\+|atomic|gomp)\.so.*)$")
KERNELS = """pkgconf-bin libpkgconf3 libfyaml-dev libfyaml0 libhwloc-dev libhwloc15 libudev1 libcmocka-dev libcmocka0"""
ALL = KERNELS + """
 openmpi-bin openmpi-common libopenmpi-dev libopenmpi3 libpmix2 libevent-core-2.1-7 libevent-pthreads-2.1-7 libevent-2.1-7
 libltdl7 libmunge2 libnuma1 libuuid1 zlib1g zlib1g-dev
 libhdf5-openmpi-dev libhdf5-openmpi-103-1 libhdf5-openmpi-hl-100 libaec0 libsz2 libcurl4 libnghttp2-14 libidn2-0 libunistring2 librtmp1
 libssh2-1 libpsl5 libgssapi-krb5-2 libkrb5-3 libk5crypto3 libkrb5support0 libkeyutils1 libcom-err2 libldap-2.5-0
 libsasl2-2 libbrotli1 libgnutls30 libhogweed6 libnettle8 libgmp10 libtasn1-6 libp11-kit0 libffi8
 libssl-dev libssl3 libjansson-dev libjansson4 libzstd-dev libzstd1 libxxhash-dev libxxhash0 libsqlite3-dev libsqlite3-0"""
# What no build and no run looks at.
JUNK = ["usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/lintian", "usr/share/bug", "usr/share/gtk-doc",
        "usr/share/info", "usr/include/infiniband", "usr/lib/x86_64-linux-gnu/fortran",
        "usr/lib/x86_64-linux-gnu/openmpi/lib/openmpi-java", "etc/init.d", "lib/systemd", "var"]
MULTI = "usr/lib/x86_64-linux-gnu"


def run(command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **more).stdout


def fetch(names, cache):
    """The packages as files, from this machine's package sources (Debian 12)."""
    cache.mkdir(parents=True, exist_ok=True)
    have = {p.name.split("_")[0] for p in cache.glob("*.deb")}
    missing = [n for n in names if n not in have]
    if missing:
        subprocess.run(["apt-get", "download", "-qq", *missing], cwd=cache, check=True)
    return [p for p in sorted(cache.glob("*.deb")) if p.name.split("_")[0] in names]


NETWORKS = re.compile(r"lib(fabric|ucp|psm2|psm_infinipath|ibverbs|rdmacm|oshmem|nl-3)\.so")


def prune(root):
    """Also what Open MPI loads for networks that one machine does not have."""
    for p in root.glob(f"{MULTI}/openmpi/lib/openmpi3/*.so"):
        if NETWORKS.search(run(["readelf", "-d", p])):
            p.unlink()
    for p in [*root.glob(f"{MULTI}/**/liboshmem*"), *(p for n in ("verbs", "ucx", "ofi") for p in root.glob(f"{MULTI}/libmca_common_{n}.*"))]:
        p.unlink()
    for p in root.glob("usr/bin/*"):
        if p.is_file() and not p.is_symlink() and p.name not in ("pkgconf", "orterun", "orted"):
            p.unlink()
    for j in JUNK:
        shutil.rmtree(root / j, ignore_errors=True)
    for pattern in ("**/*.a", "**/*.la", "**/*.mod"):
        for p in root.glob(pattern):
            p.unlink()


def relink(root):
    """Links that name a place outside the folder are made to name the same place inside, or go."""
    for p in list(root.rglob("*")):
        if not p.is_symlink():
            continue
        to = os.readlink(p)
        if to.startswith("/"):
            inside = root / to.lstrip("/")
            p.unlink()
            if inside.exists():
                p.symlink_to(os.path.relpath(inside, p.parent))
        elif not p.exists():
            p.unlink()
    for link, to in ((root / "usr/bin/pkg-config", "pkgconf"), (root / "usr/bin/mpirun", "orterun"),
                     (root / "usr/bin/mpiexec", "orterun"), (root / MULTI / "libz.so", None)):
        if to and not link.exists() and (link.parent / to).exists():
            link.symlink_to(to)
    for old in ("lib/x86_64-linux-gnu",):  # libraries that Debian keeps outside usr
        for p in (root / old).glob("*.so*") if (root / old).is_dir() else []:
            at = root / MULTI / p.name
            if not at.exists() and not at.is_symlink():
                shutil.move(p, at)
    for p in (root / MULTI).glob("*.so"):  # development links that pointed out of usr
        if p.is_symlink() and not p.exists():
            inside = root / MULTI / os.path.basename(os.readlink(p))
            p.unlink()
            if inside.exists():
                p.symlink_to(inside.name)


def unresolved(root):
    """Libraries that something in the folder needs and that are neither in it nor in every system."""
    have, need = set(), {}
    for p in root.rglob("*"):
        if not p.is_file():
            continue
        if ".so" in p.name:
            have.add(p.name)
        with open(p, "rb") as f:
            if f.read(4) != b"\x7fELF":
                continue
        for line in run(["readelf", "-d", p], stderr=subprocess.DEVNULL).splitlines():
            m = re.search(r"\(NEEDED\).*\[(.*)\]", line)
            if m:
                need.setdefault(m[1], p.relative_to(root))
    return {n: p for n, p in need.items() if n not in have and not BASE.match(n)}


def size(root):
    return sum(p.lstat().st_size for p in root.rglob("*") if not p.is_dir())


def pack(where, kernels_only):
    """Makes the folder anew. Returns its bytes."""
    root = pathlib.Path(where)
    names = (KERNELS if kernels_only else ALL).split()
    debs = fetch(names, root.with_name(root.name + ".debs"))
    if root.exists():
        if not (root / ".gpu-pack").exists():
            sys.exit(f"gpu-check: {root} exists and was not made by --pack")
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / ".gpu-pack").touch()
    for d in debs:
        run(["dpkg", "-x", d, root])
    relink(root)
    prune(root)
    for p in list(root.rglob("*")):  # links that lost what they pointed to
        if p.is_symlink() and not p.exists():
            p.unlink()
    for name, p in unresolved(root).items():
        print(f"gpu-check: warning: {name}, which {p} needs, is not in the folder", file=sys.stderr)
    return size(root)


def environment(where):
    """The variables with which compiler, linker, pkg-config and Open MPI find what is in the folder; CMake's arguments."""
    root = pathlib.Path(where).resolve()
    lib, mpi = root / MULTI, root / MULTI / "openmpi"
    e = dict(os.environ)

    def before(name, *paths):
        e[name] = ":".join([str(p) for p in paths] + ([e[name]] if e.get(name) else []))

    before("PATH", root / "usr/bin")
    before("LD_LIBRARY_PATH", mpi / "lib", lib, lib / "hdf5/openmpi")
    before("LIBRARY_PATH", mpi / "lib", lib)
    for name in ("C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH"):  # hwloc's, of one architecture
        before(name, root / "usr/include/x86_64-linux-gnu")
    e.update(PKG_CONFIG_LIBDIR=f"{lib}/pkgconfig:{root}/usr/share/pkgconfig", PKG_CONFIG_SYSROOT_DIR=str(root),
             PKG_CONFIG_ALLOW_SYSTEM_CFLAGS="1", PKG_CONFIG_ALLOW_SYSTEM_LIBS="1")
    if not mpi.is_dir():
        return e, []
    e.update(OPAL_PREFIX=str(root / "usr"), OPAL_LIBDIR=str(mpi / "lib"), OPAL_PKGLIBDIR=str(mpi / "lib/openmpi3"),
             OPAL_DATADIR=str(root / "usr/share"), OPAL_PKGDATADIR=str(root / "usr/share/openmpi"),
             OPAL_SYSCONFDIR=str(root / "etc/openmpi"), OPAL_BINDIR=str(root / "usr/bin"),
             PMIX_INSTALL_PREFIX=str(lib / "pmix2"), PMIX_PREFIX=str(lib / "pmix2"),
             OMPI_MCA_plm_rsh_agent="true", PMIX_MCA_pcompress_base_silence_warning="1")  # mpirun looks for ssh, also where all ranks are on one machine
    cmake = ["-DMPI_SKIP_COMPILER_WRAPPER=ON", "-DMPI_ASSUME_NO_BUILTIN_MPI=ON", "-DMPI_C_LIB_NAMES=mpi",
             f"-DMPI_mpi_LIBRARY={mpi}/lib/libmpi.so", f"-DMPI_C_HEADER_DIR={mpi}/include",
             f"-DMPI_C_ADDITIONAL_INCLUDE_DIRS={mpi}/include/openmpi", f"-DMPIEXEC_EXECUTABLE={root}/usr/bin/orterun",
             "-DCMAKE_Fortran_COMPILER=NOTFOUND"]
    return e, cmake
