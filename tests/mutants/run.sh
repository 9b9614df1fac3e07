#!/bin/sh
# Applies each deliberate bug (NAME.patch beside this file) to a copy of the tree and runs the test that its head names. That test
# must fail: a property that no bug can break promises nothing. Usage: tests/mutants/run.sh [NAME…]
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-$PWD/target}
# Always the same place, so that cargo builds into the same artefacts again.
copy=$target/mutants/tree
log=$target/mutants/log
export CARGO_TARGET_DIR="$target"
rm -rf "$copy" && mkdir -p "$copy"
git ls-files -co --exclude-standard -z | tar -c --null --ignore-failed-read -T - 2>/dev/null | tar -x -C "$copy"

# True if the named test passed, 1 if it ran and failed, 2 if there was nothing to judge.
passes() {
    if (cd "$copy" && cargo test --quiet --lib -- --exact "$1") >"$log" 2>&1; then
        grep -q ' 1 passed' "$log" && return 0 || return 2
    fi
    grep -q ' 1 failed' "$log" && return 1 || return 2
}

[ $# -gt 0 ] || set -- $(ls tests/mutants/*.patch | xargs -n 1 basename -s .patch)
survived=0
for name; do
    patch=$PWD/tests/mutants/$name.patch
    test=$(sed -n 's/^test: //p' "$patch")
    files=$(sed -n 's/^+++ b\///p' "$patch")
    # No repository may be found above the copy: git would silently skip paths outside its own.
    if ! (cd "$copy" && GIT_CEILING_DIRECTORIES=$(dirname "$copy") git apply "$patch"); then
        verdict='does not apply'
    else
        if passes "$test"; then verdict=SURVIVED; else
            [ $? -eq 1 ] && verdict=killed || verdict="not judged, see $log"
        fi
        (cd "$copy" && GIT_CEILING_DIRECTORIES=$(dirname "$copy") git apply -R "$patch" && touch $files)
        rm -rf "$copy/proptest-regressions"
    fi
    printf '%-24s %-10s %s\n' "$name" "$verdict" "$test"
    [ "$verdict" = killed ] || survived=$((survived + 1))
done
echo "$# bugs, $survived not killed"
[ "$survived" -eq 0 ]
