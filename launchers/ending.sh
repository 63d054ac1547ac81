# shellcheck shell=bash disable=SC2030,SC2031 # the watcher has its own list of watchers, an empty one
# How mpirun.sh and srun.sh end: with the code of rank 0, and with nothing left. They source this file.

# make_note: a file in which rank 0 leaves its exit code, and which connection file is its own (DCLUSTER_EXIT_CODE_FILE).
# It lies where the connection file does, which all nodes see.
make_note() {
    local directory=${DCLUSTER_RUN_DIR:-~/.dcluster}
    [ -d "$directory" ] || (umask 077 && mkdir -p "$directory")
    DCLUSTER_EXIT_CODE_FILE=$(mktemp "$directory/exit-code.XXXXXX")
    export DCLUSTER_EXIT_CODE_FILE
    trap clean_up EXIT
}

# clean_up: when the launcher has ended. Rank 0 has removed its connection file, unless all of its node was killed.
clean_up() {
    local file
    # shellcheck disable=SC2086 # one word for each
    [ -z "${watchers:-}" ] || kill -KILL $watchers 2>/dev/null || true
    file=$(sed -n '/^\//{p;q;}' "$DCLUSTER_EXIT_CODE_FILE" 2>/dev/null || true)
    # A cluster started later may have its file there; this one's has its address.
    if [ -n "$file" ] && grep -qsF "\"$(tail -n 1 "$DCLUSTER_EXIT_CODE_FILE")\"" "$file"; then
        echo "removed $file, which a killed cluster has left behind" >&2
        rm -f "$file"
    fi
    rm -f "$DCLUSTER_EXIT_CODE_FILE"
}

# watch_over LAUNCHER SIGNAL: a process beside this script. When the script is killed, it ends the launcher and cleans up.
watch_over() {
    {
        trap '' HUP INT TERM USR1 USR2
        tail --pid=$$ -f /dev/null
        watchers=
        kill -"$2" "$1"
        tail --pid="$1" -f /dev/null
        clean_up
    } </dev/null >/dev/null 2>&1 &
    watchers="${watchers:-} $!"
    disown
}

# wait_for LAUNCHER: until it is gone; sets `code`. A signal to this script ends `wait` early.
# shellcheck disable=SC2034
wait_for() {
    code=0
    wait "$1" || code=$?
    while kill -0 "$1" 2>/dev/null; do
        code=0
        wait "$1" || code=$?
    done
    if [ -s "$DCLUSTER_EXIT_CODE_FILE" ]; then
        code=$(head -n 1 "$DCLUSTER_EXIT_CODE_FILE")
    fi
}
