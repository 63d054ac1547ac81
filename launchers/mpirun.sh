#!/usr/bin/env bash
# mpirun with the settings that suit dcluster: Open MPI or MPICH, by itself or inside an allocation.
#
#   launchers/mpirun.sh -n 4 dcluster run -- ./app       everything is handed to mpirun as it is
#   MPIRUN=/opt/mpi/bin/mpirun launchers/mpirun.sh ...   another mpirun than the one on PATH
#
# Each setting is an environment variable that is left alone where you have set it:
#   - ranks are not bound: dcluster binds them itself (dcluster topo shows how);
#   - a lost rank does not end the others (Open MPI 4). That mpirun then always ends with 0, so rank 0 leaves its
#     exit code in the file DCLUSTER_EXIT_CODE_FILE, and this script ends with it;
#   - on a machine outside any allocation, more ranks than cores are allowed: rank 0 only schedules.
set -euo pipefail

mpirun=${MPIRUN:-mpirun}
# shellcheck source=launchers/ending.sh
. "$(dirname "${BASH_SOURCE[0]}")/ending.sh"

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

# set_default NAME VALUE: export NAME=VALUE unless the caller has set NAME.
set_default() {
    export "$1=${!1-$2}"
}

case ${1:-} in
'' | -h | --help)
    usage
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
esac

if ! command -v "$mpirun" >/dev/null; then
    echo "mpirun.sh: no $mpirun on PATH: install MPI (make setup), load its module, or set MPIRUN" >&2
    exit 127
fi
version=$("$mpirun" --version 2>/dev/null || true)

in_allocation() {
    [ -n "${SLURM_JOB_ID:-}${PBS_JOBID:-}${LSB_JOBID:-}${FLUX_JOB_ID:-}" ]
}

case $version in
*'(Open MPI)'*)
    set_default OMPI_MCA_hwloc_base_binding_policy none
    set_default OMPI_MCA_orte_enable_recovery 1
    # Open MPI 4 hands on what it is told to.
    case $version in *' 4.'*) set_default OMPI_MCA_ess_base_forward_signals SIGXCPU ;; esac
    # Inside Slurm, keep the allocation when one of its nodes fails.
    set_default OMPI_MCA_plm_slurm_args --no-kill
    if ! in_allocation; then
        set_default OMPI_MCA_rmaps_base_oversubscribe 1
        set_default PRTE_MCA_rmaps_default_mapping_policy :oversubscribe
    fi
    # Open MPI 5 takes the binding from its own runtime, and refuses root under another name.
    set_default PRTE_MCA_hwloc_default_binding_policy none
    if [ "$(id -u)" -eq 0 ]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
        export PRTE_ALLOW_RUN_AS_ROOT=1 PRTE_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    ;;
*HYDRA*)
    # MPICH neither binds ranks by default nor minds root or oversubscription.
    ;;
*)
    echo "mpirun.sh: $mpirun is neither Open MPI nor MPICH: started without settings" >&2
    ;;
esac

if [ "${OMPI_MCA_orte_enable_recovery:-0}" = 0 ]; then
    exec "$mpirun" "$@"
fi

# end_without_ranks: a process that ends an mpirun which has started nothing in 15 s. With recovery, Open MPI 4
# waits for ever, without a word, for a program that is not there.
end_without_ranks() {
    {
        exec {never}<> <(:)
        for _ in 1 2 3; do
            # (a pause without a process)
            read -r -t 5 -u "$never" _ || true
            [ -z "$(cat "/proc/$launcher/task/"*/children 2>/dev/null || echo unknown)" ] || exit 0
        done
        echo "mpirun.sh: mpirun has started nothing in 15 s, and is ended: is the program there, on every node?" >&2
        kill -TERM "$launcher"
    } &
    watchers="${watchers:-} $!"
    disown
}

make_note
launch "$mpirun" "$@"
watch_over TERM
end_without_ranks
# Ctrl-C reaches mpirun by itself, and twice would be taken for "at once".
interrupted=
trap interrupted=1 INT
# A TERM would end in a KILL of all ranks two seconds later; an XCPU is handed on, and leaves them their time.
ended=
ending=TERM
case ${OMPI_MCA_ess_base_forward_signals:-} in *SIGXCPU*) ending=XCPU ;; esac
trap 'ended=143; hand_on "$ending"' TERM
trap 'ended=129; hand_on "$ending"' HUP
serve_signals
wait_for_launcher
if [ -n "$interrupted" ]; then
    code=130
elif [ -n "$ended" ] && [ "$code" -ne 0 ]; then
    code=$ended
fi
exit "$code"
