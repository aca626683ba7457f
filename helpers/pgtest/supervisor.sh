# Runs a PostgreSQL server until nobody holds a lock on the file "users" of its run folder any more.
# Arguments: the postgres program, the run folder, the libraries to preload.
postgres=$1 run=$2 preload=$3
trap '' HUP INT TERM
exec 9<"$run/users" >"$run/log" 2>&1 </dev/null

# A throw-away cluster: nothing of it need survive a crash of the machine.
"$postgres" -D "$run/data" -k "$run" -c listen_addresses= -c unix_socket_permissions=0777 \
    -c fsync=off -c synchronous_commit=off -c full_page_writes=off -c wal_level=minimal -c max_wal_senders=0 \
    -c max_connections=300 -c shared_preload_libraries="$preload" 9<&- &
server=$!

# Packages of one run follow each other with gaps: the last one out leaves the light on for a while.
idle=0
while kill -0 "$server" 2>/dev/null && [ "$idle" -lt 10 ]; do
    sleep 1
    if flock -n -x 9; then idle=$((idle + 1)); flock -u 9; else idle=0; fi
done

# Whoever comes now waits for the lock, and then finds that the folder is gone and starts anew.
flock -x 9
kill -INT "$server" 2>/dev/null
wait "$server"
rm -rf "$run"
