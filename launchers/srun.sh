#!/usr/bin/env bash
# srun with the process management that this Slurm offers: PMIx if it has it, else none.
#
#   launchers/srun.sh -N 2 --ntasks-per-node=4 dcluster run -- ./app    everything is handed to srun as it is
#   launchers/srun.sh --mpi=none -N 2 dcluster                          an --mpi of yours, or SLURM_MPI_TYPE, wins
#
# With PMIx the ranks meet over MPI, and Slurm ends the whole step when one rank dies. With --mpi=none they meet
# over TCP, data goes over TCP and shared memory, and the others live on: --kill-on-bad-exit=0 is added then.
set -euo pipefail

usage() {
    sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
}

case ${1:-} in
'' | -h | --help)
    usage
    [ $# -gt 0 ] || exit 2
    exit 0
    ;;
esac

if ! command -v srun >/dev/null; then
    echo "srun.sh: no srun on PATH: this is not a Slurm cluster, or its module is not loaded" >&2
    exit 127
fi

# Words behind `--` are the program's, as in `dcluster run -- ./app --mpi=yes`.
chosen=${SLURM_MPI_TYPE:-}
for word in "$@"; do
    case $word in
    --mpi=*)
        chosen=${word#--mpi=}
        break
        ;;
    --) break ;;
    esac
done

if [ -z "$chosen" ]; then
    # (srun prints the list on stderr)
    if srun --mpi=list 2>&1 | grep -Eqw 'pmix'; then chosen=pmix; else chosen=none; fi
    set -- "--mpi=$chosen" "$@"
fi
if [ "$chosen" = none ]; then
    set -- --kill-on-bad-exit=0 "$@"
fi

exec srun "$@"
