# Runs a PostgreSQL server, and removes its run folder when it has stopped.
# Arguments: the run folder; the server's command line.
# From the standard input comes a line once the server is watched. If its starter dies before, there is none.
run=$1
shift
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
{
    # Not once: a process that does not handle the signal yet ignores it, being in the background.
    read -r _ <&3 || while kill -INT "$server"; do sleep 0.2; done
} 2>/dev/null &
exec 3<&-
wait "$server"
rm -rf "$run"
