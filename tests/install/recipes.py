"""The recipes of slurm/ name only what the build has: options, dependencies, packages, files. One line a fault, exit 1 if any.
Usage: recipes.py SOURCE_DIR"""
import ast
import pathlib
import re
import sys

root = pathlib.Path(sys.argv[1])
faults = []


def fault(where, what):
    faults.append(f"{where}: {what}")


cmake = "\n".join(p.read_text() for p in [root / "CMakeLists.txt", *(root / "cmake").glob("*.cmake")])
options = set(re.findall(r"^\s*(?:option|set)\((WEFT_\w+)", cmake, re.M))
libraries = set(re.findall(r"pkg_(?:check_modules|search_module)\((\w+)", cmake)) | set(re.findall(r"find_package\((\w+)", cmake))
packages = {w for line in (root / "scripts/packages.tsv").read_text().splitlines() if not line.startswith("#")
            for w in line.split("\t")[1:2]}

# What other package systems call the libraries of cmake/WeftDependencies.cmake.
names = {"mpi": "MPI", "hdf5": "hdf5", "libfyaml": "fyaml", "hwloc": "hwloc", "jansson": "jansson", "openssl": "ssl", "zstd": "zstd",
         "zlib-api": "zlib", "zlib": "zlib", "xxhash": "xxhash", "sqlite": "sqlite3", "ucx": "ucx", "libmicrohttpd": "microhttpd",
         "cmocka": "cmocka"}
tools = {"c", "cmake", "ninja", "pkgconfig", "pkgconf", "slurm"}
required = set(re.findall(r"pkg_(?:check_modules|search_module)\((\w+) REQUIRED", cmake)) - {"cmocka", "crypto"} | {"MPI"}


def check_dependencies(where, given):
    for name in given:
        if name not in tools and names.get(name) not in libraries:
            fault(where, f"dependency {name} is none of the build's")
    for missing in required - {names.get(n) for n in given}:
        fault(where, f"the build requires {missing}")


def check_options(where, text):
    for option in set(re.findall(r"\b(WEFT_[A-Z]+)\b", text)):
        if option not in options:
            fault(where, f"option {option} is none of the build's")


def spack():
    where = root / "slurm/spack/packages/weft/package.py"
    text = where.read_text()
    calls = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Call)]
    of = lambda f: [c for c in calls if getattr(c.func, "id", getattr(c.func, "attr", "")) == f]
    variants = {c.args[0].value for c in of("variant")}
    used = {c.args[1].value for c in of("define_from_variant")}
    for c in of("depends_on"):
        used |= {v for k in c.keywords if k.arg == "when" for v in re.findall(r"\+(\w+)", k.value.value)}
    for v in used - variants:
        fault("spack", f"variant {v} is used, not declared")
    for v in variants - used:
        fault("spack", f"variant {v} is declared, not used")
    check_dependencies("spack", [re.split(r"[@+~ ]", c.args[0].value)[0] for c in of("depends_on")])
    check_options("spack", text)
    if "namespace: weft" not in (root / "slurm/spack/repo.yaml").read_text():
        fault("spack", "repo.yaml names no namespace")


def easybuild():
    files = sorted((root / "slurm/easybuild").glob("*.eb"))
    if not files:
        fault("easybuild", "no recipe")
    for path in files:
        scope = {"SYSTEM": {"name": "system"}, "SHLIB_EXT": "so"}
        exec(compile(path.read_text(), path.name, "exec"), scope)
        for key in ("easyblock", "name", "version", "homepage", "description", "toolchain", "moduleclass"):
            if key not in scope:
                fault(path.name, f"no {key}")
        c = scope["toolchain"]
        if path.name != f"{scope['name']}-{scope['version']}-{c['name']}-{c['version']}.eb":
            fault(path.name, "the file's name is not that of its contents")
        if scope["version"] not in re.findall(r"project\(weft VERSION ([\d.]+)", cmake):
            fault(path.name, "another version than the build's")
        check_dependencies(path.name, [d[0].lower() for d in scope["dependencies"] + scope["builddependencies"]] + ["mpi"])
        check_options(path.name, scope["configopts"])


def apptainer():
    where = root / "slurm/apptainer/weft.def"
    text = where.read_text()
    known = {"help", "files", "post", "environment", "test", "runscript", "labels", "setup", "startscript", "arguments"}
    sections = re.findall(r"^%(\w+)", text, re.M)
    for s in sections:
        if s not in known:
            fault("apptainer", f"%{s} is no section")
    for s in ("post", "files", "runscript", "test"):
        if s not in sections:
            fault("apptainer", f"no %{s}")
    if not re.match(r"Bootstrap: \w+\nFrom: debian:12\n", text):
        fault("apptainer", "it does not begin with Bootstrap and From")
    for line in re.findall(r"apt-get install (.*)", text):
        for p in line.split():
            if not p.startswith("-") and p not in packages | {"ca-certificates"}:
                fault("apptainer", f"package {p} is not in scripts/packages.tsv")
    for group in re.findall(r"scripts/install (\w+)", text):
        if not re.search(rf"^{group}\t", (root / "scripts/packages.tsv").read_text(), re.M):
            fault("apptainer", f"scripts/install has no group {group}")
    check_options("apptainer", text)


def profiles():
    files = sorted((root / "slurm/env").iterdir())
    if {f.name for f in files} < {"generic-tcp", "generic-ib", "alps", "juwels-booster"}:
        fault("env", "a profile is missing")
    for f in files:
        for n, line in enumerate(f.read_text().splitlines(), 1):
            if line and not re.fullmatch(r'#.*|export [A-Z][A-Za-z0-9_]*=("[A-Za-z0-9 _.,:/^-]*"|[A-Za-z0-9_.,:/^-]*)', line):
                fault(f"env/{f.name}:{n}", "neither a comment nor an export of a plain value")


for check in (spack, easybuild, apptainer, profiles):
    check()
print("\n".join(faults))
sys.exit(1 if faults else 0)
