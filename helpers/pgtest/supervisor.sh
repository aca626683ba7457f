# Runs a PostgreSQL server, and removes its run folder when it has stopped; one that leaves a file "again" in its data
# folder is started again (see own.go). Arguments: the run folder; the server's command line.
# From the standard input comes a line once the server is watched. If its starter dies before, there is none.
run=$1
shift
exec 3<&0 </dev/null
{
    # Not once: the server may be on its way up, or up again.
    read -r _ <&3 || while [ -e "$run" ]; do
        kill -INT "$(head -n 1 "$run/data/postmaster.pid")"
        sleep 0.2
    done
} 2>/dev/null &
exec 3<&-
while
    "$@"
    [ -e "$run/data/again" ]
do
    rm "$run/data/again"
done
rm -rf "$run"
