#!/usr/bin/env bash
# What is installed is enough: a program outside the tree builds against it with pkg-config and with CMake, and runs.
# Usage: installed.sh BUILD_DIR SOURCE_DIR
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
cmake --install "$1" --prefix "$work/prefix" >"$work/log"
lib=$(dirname "$(find "$work/prefix" -name 'libweft.so')")
sed -i "s|^prefix=.*|prefix=$work/prefix|" "$lib/pkgconfig/weft.pc"
readelf -d "$lib/libweft.so" | grep -q 'SONAME.*libweft.so.0' || { echo "no soname" >&2; exit 1; }
# only weft_ names are visible
bad=$(nm -D --defined-only "$lib/libweft.so" | awk '$2 ~ /[TDBR]/ && $3 !~ /^weft_/ { print $3 }' | head -n 5)
[ -z "$bad" ] || { echo "foreign names are exported: $bad" >&2; exit 1; }
cc "$2/examples/allreduce/allreduce.c" $(PKG_CONFIG_PATH="$lib/pkgconfig" pkg-config --cflags --libs weft) -o "$work/by_pc"
LD_LIBRARY_PATH=$lib mpirun --oversubscribe -n 3 "$work/by_pc"
mkdir "$work/app"
cat >"$work/app/CMakeLists.txt" <<C
cmake_minimum_required(VERSION 3.20)
project(app C)
find_package(weft 0.1 REQUIRED)
add_executable(app $2/examples/allreduce/allreduce.c)
target_link_libraries(app weft::weft)
C
cmake -S "$work/app" -B "$work/app/build" -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/log"
cmake --build "$work/app/build" >"$work/log"
LD_LIBRARY_PATH=$lib mpirun --oversubscribe -n 2 "$work/app/build/app"
# the product alone: C and C++ programs, no MPI launcher
cmake -S "$2/examples/gemm" -B "$work/gemm" -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/log"
cmake --build "$work/gemm" >"$work/log"
LD_LIBRARY_PATH=$lib "$work/gemm/gemm" 2
if command -v g++ >/dev/null; then
  cat >"$work/product.cpp" <<'C'
#include <weft/gemm.h>
int main() {
    float a[2] = {1, 2}, b[2] = {3, 4}, c = 0;
    weft_gemm_context *x;
    weft_gemm_call g = {};
    g.size = sizeof g, g.m = g.n = 1, g.k = 2, g.a = a, g.b = b, g.c = &c;
    if (weft_gemm_open(nullptr, &x) < 0 || weft_gemm(x, &g) < 0 || weft_gemm_close(&x) < 0) return 1;
    return c == 11 ? 0 : 2;
}
C
  g++ "$work/product.cpp" $(PKG_CONFIG_PATH="$lib/pkgconfig" pkg-config --cflags --libs weft) -o "$work/product"
  LD_LIBRARY_PATH=$lib "$work/product"
fi
# launching: a program of one's own asks for a site's script; the command finds the profiles that are installed beside it
printf 'run: {name: x}\nlaunch: {sites: {here: {dir: /scratch/x, nodes: 3}}}\n' >"$work/launch.yaml"
cat >"$work/launch.c" <<'C'
#include <stdio.h>
#include <string.h>
#include <weft/launch.h>
int main(int argc, char **argv) {
    weft_launch_opts o = {sizeof o};
    weft_launch *l;
    char text[4096];
    size_t need = 0;
    if (weft_launch_open(argc > 1 ? argv[1] : "", &o, &l) < 0 || weft_launch_script(l, "here", text, sizeof text, &need) < 0) {
        fprintf(stderr, "%s\n", weft_last_error());
        return 1;
    }
    weft_launch_close(l);
    return strstr(text, "--nodes=3") ? 0 : 2;
}
C
for compile in cc "g++ -x c++"; do
  command -v ${compile%% *} >/dev/null || continue
  $compile "$work/launch.c" $(PKG_CONFIG_PATH="$lib/pkgconfig" pkg-config --cflags --libs weft) -o "$work/launch"
  LD_LIBRARY_PATH=$lib "$work/launch" "$work/launch.yaml"
done
"$work/prefix/bin/weft" launch "$work/launch.yaml" --dry-run --set launch.sites.here.env=generic-tcp | grep -q '^# Environment profile generic-tcp'

# the shim: an MPI program that knows nothing of weft gives the same answers, and weft serves it
mpicc -O1 "$2/tests/comm/pmpi/calls.c" -o "$work/calls"
mpirun --oversubscribe -n 2 "$work/calls" >"$work/plain"
mpirun --oversubscribe -n 2 -x "LD_PRELOAD=$lib/libweft_pmpi.so" -x WEFT_PMPI_STATS=1 "$work/calls" >"$work/shim" 2>"$work/log"
cmp "$work/plain" "$work/shim"
grep -q 'allreduce_c [1-9]' "$work/log" || { echo "the shim served nothing: $(cat "$work/log")" >&2; exit 1; }
# the Fortran module, compiled by the program's own build
if command -v mpifort >/dev/null && printf 'use mpi_f08\nend\n' >"$work/f08.f90" && mpifort -fsyntax-only "$work/f08.f90" 2>"$work/log"; then
  cmake -S "$2/examples/heat" -B "$work/heat" -DCMAKE_PREFIX_PATH="$work/prefix" >"$work/log"
  cmake --build "$work/heat" >"$work/log"
  LD_LIBRARY_PATH=$lib mpirun --oversubscribe -n 2 "$work/heat/heat" --check
else
  echo "no Fortran compiler with mpi_f08: the module weft is not tried"
fi
"$work/prefix/bin/weft" --version
echo ok
