#!/usr/bin/env bash
# The recipes of slurm/ fit the build (recipes.py; spoiled ones are found out), the modulefile loads the installed weft, the environment
# profiles are installed where `weft launch` looks.
# Usage: recipes.sh BUILD_DIR SOURCE_DIR
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { echo "FAIL: $*" >&2; exit 1; }
top=$2
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }

python3 "$top/tests/install/recipes.py" "$top" || fail "recipes and build disagree"
for f in "$top"/slurm/env/*; do bash -n "$f" || fail "$f"; done
# spoiled SED FILE REGEX: the same recipes with one thing wrong are found out
spoiled() {
  rm -rf "$work/tree"
  mkdir "$work/tree"
  cp -r "$top/slurm" "$top/cmake" "$top/CMakeLists.txt" "$work/tree/"
  mkdir "$work/tree/scripts"
  cp "$top/scripts/packages.tsv" "$work/tree/scripts/"
  sed -i "$1" "$work/tree/$2"
  if python3 "$top/tests/install/recipes.py" "$work/tree" >"$work/out"; then fail "not found out: $1 in $2"; fi
  grep -qE "$3" "$work/out" || { cat "$work/out" >&2; fail "$1 in $2: no '$3'"; }
}
spoiled 's/WEFT_SPANK/WEFT_PLANK/' slurm/spack/packages/weft/package.py 'option WEFT_PLANK'
spoiled '/depends_on("zstd")/d' slurm/spack/packages/weft/package.py 'requires zstd'
spoiled 's/when="+ucx"/when="+ucxx"/' slurm/spack/packages/weft/package.py 'variant ucxx is used'
spoiled 's/libfyaml/libyaml/' slurm/easybuild/weft-0.1.0-foss-2023b.eb 'dependency libyaml'
spoiled 's/%post/%past/' slurm/apptainer/weft.def '%past is no section'
spoiled 's/ca-certificates/libnothing-dev/' slurm/apptainer/weft.def 'libnothing-dev'
spoiled 's/^export OMPI_MCA_pml=ob1/export OMPI_MCA_pml=$(id)/' slurm/env/generic-tcp 'neither a comment'

# --- installed
cmake --install "$1" --prefix "$work/prefix" >"$work/log"
share=$work/prefix/share/weft/slurm
for f in env/generic-tcp spack/packages/weft/package.py health/install; do [ -f "$share/$f" ] || fail "$f is not installed"; done
cat >"$work/run.yaml" <<Y
run: {name: r}
launch:
  sites:
    north: {driver: local, nodes: 1, env: generic-tcp, dir: $work/site, weft: $work/prefix/bin/weft}
Y
"$work/prefix/bin/weft" launch "$work/run.yaml" --dry-run >"$work/script" 2>&1 || { cat "$work/script" >&2; fail "weft launch --dry-run"; }
grep -qx 'export OMPI_MCA_pml=ob1' "$work/script" || { cat "$work/script" >&2; fail "the profile is not in the script"; }

init=/usr/share/modules/init/bash
[ -r $init ] || { echo "no environment-modules here: the modulefile is not tried"; exit 0; }
cat >"$work/modules.sh" <<'S'
prefix=$1
fail() { echo "FAIL: $*" >&2; exit 1; }
. /usr/share/modules/init/bash
before=$PATH
module use "$prefix/share/weft/slurm/modulefiles"
version=$(ls "$prefix/share/weft/slurm/modulefiles/weft")
module avail 2>&1 | grep -q "weft/$version" || fail "module avail does not show weft/$version"
module load weft || fail "module load weft"
[ "$(command -v weft)" = "$prefix/bin/weft" ] || fail "weft is $(command -v weft)"
[ "$WEFT_ROOT" = "$prefix" ] || fail "WEFT_ROOT is $WEFT_ROOT"
weft --version | grep -qx "weft $version" || fail "another version"
code=0
weft doctor >doctor.txt || code=$?
{ [ $code = 0 ] || [ $code = 69 ]; } && grep -q '^ok .*processor' doctor.txt || { cat doctor.txt >&2; fail "weft doctor ends with $code"; }
pkg-config --exists weft || fail "pkg-config does not find weft"
echo '#include <weft/version.h>' | cc -E -I"$WEFT_ROOT/include" - >/dev/null || fail "the headers"
cp "$prefix/share/weft/slurm/modulefiles/weft/$version" "$prefix/share/weft/slurm/modulefiles/weft/9.9"
if module load weft/9.9 2>err.txt && [[ $LOADEDMODULES == *weft/9.9*weft/* || $LOADEDMODULES == *weft/*:*weft/9.9* ]]; then fail "two at once: $LOADEDMODULES"; fi
rm "$prefix/share/weft/slurm/modulefiles/weft/9.9"
module unload weft 2>/dev/null || true
! command -v weft | grep -q "$prefix" || fail "module unload leaves weft on PATH"
# where there is no MPI, its module comes first
mkdir bin
for p in bash tclsh; do ln -s "$(command -v $p)" bin/; done
(export PATH=$PWD/bin; module load weft 2>err.txt; [ -z "${WEFT_ROOT-}" ]) || fail "loaded without an MPI"
echo ok
S
cd "$work"
env -u MODULEPATH -u LOADEDMODULES bash modules.sh "$work/prefix"
