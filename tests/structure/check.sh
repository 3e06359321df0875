#!/bin/bash
# The structure of the tree: which room may include which, public headers that stand alone, files that one can read,
# nothing of the machine it was written on. Prints one line a violation; exit 1 if there is any.
#   check.sh ROOT [CC [FLAGS ...]]      (FLAGS: where the public headers find mpi.h)
set -u
root=$1 cc=${2:-cc}
flags=("${@:3}")
cd "$root" || exit 2
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT
found=$scratch/found
: >"$found"

files() { # the files of the tree: git's if it knows them, else all
    { git ls-files --cached 2>/dev/null | grep . || find . -name .git -prune -o -name 'build*' -prune -o -type f -print | sed 's,^\./,,'; } |
        while read -r f; do [ -f "$f" ] && echo "$f"; done
}
files >"$scratch/files"

# runtime -> io -> comm -> kernels -> base: a file includes its own room and those further right.
includes() {
    grep -E '^(base|kernels|comm|io|runtime|include)/.*\.(c|h|cu|cuh)$' "$scratch/files" | xargs -r -d '\n' grep -HnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' |
        awk -F: '
        BEGIN { split("base kernels comm io runtime", room, " "); for (i in room) rank[room[i]] = i }
        {
            file = $1; name = $0; sub(/^[^"]*"/, "", name); sub(/".*/, "", name)
            from = file; sub(/\/.*/, "", from); to = name; sub(/\/.*/, "", to)
            if (name ~ /\.\./) print file ":" $2 ": include \"" name "\" climbs out of its folder"
            else if (to == "weft") next
            else if (from == "include") print file ":" $2 ": a public header includes \"" name "\", which is not installed"
            else if (!(to in rank)) print file ":" $2 ": include \"" name "\" does not begin with a room"
            else if (rank[to] > rank[from]) print file ":" $2 ": " from " includes \"" name "\": the arrow runs runtime, io, comm, kernels, base"
        }'
}

# CUDA C++ is kernels/cuda's alone. There, what the emulated device (tests/cuda/emulator) could not run or see: assembly outside
# of the headers that have a model of each piece, launches past cuda_launch, libraries of templates.
device() {
    grep -E '^(base|comm|io|runtime|include|kernels)/.*\.(cu|cuh)$' "$scratch/files" | grep -v '^kernels/cuda/' | sed 's/$/: CUDA C++ outside of kernels\/cuda/'
    grep -E '^kernels/cuda/.*\.(cu|cuh)$' "$scratch/files" | xargs -r -d '\n' awk '
        FNR == 1 { model = FILENAME ~ /\/(device|mma|hopper[a-z_]*)\.cuh$/ }
        { line = $0; sub(/\/\/.*/, "", line); sub(/\/\*.*/, "", line); if (line ~ /^ \*/) line = "" }
        !model && line ~ /(^|[^A-Za-z0-9_])(asm|__asm__)([ (]|$)/ { print FILENAME ":" FNR ": assembly outside of device.cuh, mma.cuh and hopper*.cuh" }
        line ~ /<<</ { print FILENAME ":" FNR ": a launch past cuda_launch" }
        line ~ /^[ \t]*#[ \t]*include[ \t]*<(cub\/|thrust\/|cuda\/|cooperative_groups|cuda_fp16|cuda_bf16|(vector|string|map|memory|algorithm|functional)>)/ { print FILENAME ":" FNR ": a library that the emulated device does not have" }'
}

# Each public header compiles on its own, as C and as C++.
headers() {
    grep -E '^include/.*\.h$' "$scratch/files" | while read -r h; do
        printf '#include "%s"\n' "${h#include/}" >"$scratch/alone.c"
        "$cc" -std=c17 -pedantic-errors -Wall -Wextra -Werror "${flags[@]}" -Iinclude -fsyntax-only "$scratch/alone.c" 2>"$scratch/log" ||
            echo "$h: does not compile alone as C: $(grep -m1 error "$scratch/log")"
        if [ -n "$cxx" ]; then
            "$cc" -x c++ -std=c++17 -Wall -Wextra -Werror "${flags[@]}" -Iinclude -fsyntax-only "$scratch/alone.c" 2>"$scratch/log" ||
                echo "$h: does not compile alone as C++: $(grep -m1 error "$scratch/log")"
        fi
    done
}

# Nobody reads more than 800 lines at once; tables that a script generates say so in their first lines.
lengths() {
    grep -E '\.(c|h|cu|cuh|cpp|sh|py|cmake|md)$' "$scratch/files" | while read -r f; do
        n=$(wc -l <"$f")
        if [ "$n" -gt 800 ] && ! head -n 5 "$f" | grep -qi generated; then echo "$f: $n lines, expected at most 800"; fi
    done
}

# No path of a particular machine. (The patterns are written so that they do not find themselves.)
paths() {
    grep -vE '\.(bin|safetensors|png|h5|idx)$' "$scratch/files" |
        xargs -r -d '\n' grep -HnIE '(^|[^A-Za-z0-9_.*}>)$-])/(work|root|home|Users)/[A-Za-z0-9_.]' | sed 's/^\([^:]*:[0-9]*\):.*/\1: a path of a machine/'
}

cxx=
echo 'int x;' >"$scratch/try.c"
if "$cc" -x c++ -fsyntax-only "$scratch/try.c" 2>/dev/null; then cxx=1; else echo "note: no C++ compiler, headers are checked as C only"; fi
{ includes; device; headers; lengths; paths; } >>"$found"
sort "$found"
echo "$(wc -l <"$scratch/files") files, $(wc -l <"$found") violations"
[ ! -s "$found" ]
