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
    # Where a signal without a trap has ended this script, the process of watch_over ends the launcher and cleans up.
    if [ -n "${launcher:-}" ] && kill -0 "$launcher" 2>/dev/null; then
        return
    fi
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

# launch COMMAND...: the launcher, in the background, because a shell serves its traps only between commands; with this
# script's standard input. Sets `launcher`. Signals are kept until the script has set its traps and calls serve_signals.
launch() {
    local signal
    early=
    for signal in HUP INT TERM USR1 USR2; do
        # shellcheck disable=SC2064 # the name is meant to be put in here
        trap "early=\"\$early $signal\"" "$signal"
    done
    "$@" <&0 &
    launcher=$!
}

# serve_signals: when the script has set its own traps. USR1 and USR2 go to the launcher; then come the signals that came
# while there were no traps for them yet.
serve_signals() {
    local signal
    trap 'hand_on USR1' USR1
    trap 'hand_on USR2' USR2
    for signal in $early; do
        kill -"$signal" $$
    done
}

# watch_over SIGNAL: a process beside this script. When the script is killed, it ends the launcher and cleans up.
watch_over() {
    {
        trap '' HUP INT TERM USR1 USR2
        tail --pid=$$ -f /dev/null
        watchers=
        kill -"$1" "$launcher"
        tail --pid="$launcher" -f /dev/null
        clean_up
    } </dev/null >/dev/null 2>&1 &
    watchers="${watchers:-} $!"
    disown
}

# hand_on SIGNAL: to the launcher.
hand_on() {
    kill -"$1" "$launcher" 2>/dev/null || true
}

# wait_for_launcher: until it is gone; sets `code`. A signal to this script ends `wait` early.
# shellcheck disable=SC2034
wait_for_launcher() {
    code=0
    wait "$launcher" || code=$?
    while kill -0 "$launcher" 2>/dev/null; do
        code=0
        wait "$launcher" || code=$?
    done
    if [ -s "$DCLUSTER_EXIT_CODE_FILE" ]; then
        code=$(head -n 1 "$DCLUSTER_EXIT_CODE_FILE")
    fi
}
