#!/bin/bash
# The machine code of the kernels for sm_90a, as kernels.txt says; then the same of listings with one mistake each, which must
# be found. Exit 77 where there is no cuobjdump that knows sm_90a.
#   check.sh ARCHIVE TABLE
set -u
archive=$1 table=$2
for tool in cuobjdump nvdisasm; do
    command -v $tool >/dev/null || { echo "skipped: no $tool"; exit 77; }
done
scratch=$(mktemp -d) || exit 2
trap 'rm -rf "$scratch"' EXIT

# One line a kernel: name, registers, local memory in bytes, wgmma, groups of them, then the names of its instructions.
summarise() { # OBJECT
    cuobjdump -arch sm_90a -res-usage "$1" 2>&1 | tr '\n' ' ' | sed 's/Function /\n/g' | sed -n \
        's/^\([^ :]*\):.*REG:\([0-9]*\) STACK:\([0-9]*\) .*LOCAL:\([0-9]*\).*/\1 \2 \3 \4/p' | awk '{ print "use", $1, $2, $3 + $4 }'
    cuobjdump -arch sm_90a -sass "$1" 2>&1 | awk '
        /Function :/ { name = $3 }
        /^ +\/\*[0-9a-f]+\*\/ / {
            sub(/^ +\/\*[0-9a-f]+\*\/ +/, ""); sub(/^@!?U?P[0-9T]+ +/, ""); op = $1; sub(/[.;].*/, "", op)
            print "op", name, op (op == "HGMMA" && /gsb0/ ? " group" : "")
        }' | sort | uniq -c | awk '{ print $2, $3, $4, $1, $5 }'
}

# Says what is wrong with SUMMARY, in lines.
judge() { # SUMMARY PATTERN REGISTERS WGMMA GROUPS WORD...
    awk -v pattern="$2" -v most="$3" -v wgmma="$4" -v groups="$5" -v words="${*:6}" '
        $2 !~ pattern { next }
        $1 == "use" { registers[$2] = $3; locals[$2] = $4 }
        $1 == "op" { count[$2, $3] += $4; if ($5 == "group") grouped[$2] += $4 }
        END {
            n = split(words, word, " ")
            for (k in registers) {
                found++
                if (registers[k] != most) print k ": " registers[k] " registers, not " most
                if (locals[k] || count[k, "LDL"] || count[k, "STL"]) print k ": uses local memory (" locals[k] " bytes)"
                if (count[k, "HGMMA"] != wgmma) print k ": " count[k, "HGMMA"] + 0 " wgmma, expected " wgmma
                if (grouped[k] != groups) print k ": " grouped[k] + 0 " groups of wgmma, expected " groups
                for (i = 1; i <= n; i++) if (!count[k, word[i]]) print k ": no " word[i]
            }
            if (!found) print "no kernel " pattern
        }' "$1"
}

all() { # PREFIX: of the summaries
    while read -r object pattern rest; do
        case $object in '' | '#'*) continue ;; esac
        # shellcheck disable=SC2086
        judge "$1$object" "$pattern" $rest
    done <"$table"
}

while read -r object; do
    ar p "$archive" "$object" >"$scratch/object.o" || exit 1
    summarise "$scratch/object.o" >"$scratch/good_$object"
    if ! grep -q '^op' "$scratch/good_$object"; then
        echo "skipped: this cuobjdump shows no code for sm_90a in $object"
        exit 77
    fi
done < <(grep -v '^#' "$table" | awk 'NF { print $1 }' | sort -u)
all "$scratch/good_" >"$scratch/found"
cat "$scratch/found"
failed=0
[ -s "$scratch/found" ] && failed=1

mistake() { # NAME SED-SCRIPT
    for good in "$scratch"/good_*; do sed "$2" "$good" >"$scratch/bad_${good##*/good_}"; done
    if [ -z "$(all "$scratch/bad_")" ]; then echo "control: $1 was not found"; failed=1; fi
}
mistake "a spill" 's/ STSM / STL /'
mistake "no multicast engine" '/ UTMALDG /d'
mistake "serialised wgmma" 's/ HGMMA \([0-9]*\) *$/ HGMMA \1 group/'
mistake "registers" '/^use/s/ 168 / 169 /'
mistake "setmaxnreg ignored" '/ USETMAXREG /d'
mistake "a kernel that is not there" '/kernelILi128E/d'
echo "$(cat "$scratch"/good_* | grep -c '^use') kernels looked at, $(wc -l <"$scratch/found") mistakes"
exit $failed
