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
"$work/prefix/bin/weft" --version
echo ok
