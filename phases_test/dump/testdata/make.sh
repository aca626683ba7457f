#!/usr/bin/env bash
# Usage: phases_test/dump/testdata/make.sh [FOLDER [ORGANIZATIONS [AGENTS]]]
#
# Makes world.dump (custom) and world.sql.gz (plain) by pg_dump of world.sql, and poor.sql.gz, which lacks what a dump can
# lack, into FOLDER: this one unless given. They are kept, and not made by each test run, because what a hosted platform adds takes roles, and an extension, that the
# tests' server must not have. Needs Debian's PostgreSQL 15, as root, and takes an empty extension to it and back.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$here/../../..
out=$(cd "${1:-$here}" && pwd)
bin=/usr/lib/postgresql/15/bin
extensions=/usr/share/postgresql/15/extension
work=$(mktemp -d)
finish() {
    runuser -u postgres -- "$bin/pg_ctl" -D "$work/data" -m immediate stop >/dev/null || true
    rm -rf "$work" "$extensions"/pg_graphql{.control,--1.0.sql}
}
trap finish EXIT

chown postgres "$work"
cd "$work"
runuser -u postgres -- "$bin/initdb" -D "$work/data" -U supabase_admin --auth=trust --encoding=UTF8 --locale=C --no-sync >/dev/null
runuser -u postgres -- "$bin/pg_ctl" -D "$work/data" -w -o "-k $work -c listen_addresses= -c fsync=off" -l "$work/log" start >/dev/null
[ -e "$extensions/pg_graphql.control" ] && { echo "$extensions has a pg_graphql of its own" >&2; exit 1; }
printf "default_version = '1.0'\nrelocatable = true\n" >"$extensions/pg_graphql.control"
echo >"$extensions/pg_graphql--1.0.sql"

run() { "$bin/psql" --no-psqlrc --quiet --host="$work" --set=ON_ERROR_STOP=1 "$@" >/dev/null; }
run -U supabase_admin -d postgres -f "$root/schema/cluster/roles.sql" \
    -c 'create role vital login' -c 'create role dashboard_user' -c 'create role reporting' \
    -c 'create role supabase_auth_admin' -c 'create role supabase_storage_admin' -c 'create database vital owner vital'
run -U vital -d vital -f "$root/schema/legacy/baseline.sql"
run -U supabase_admin -d vital --set=organizations="${2:-15}" --set=agents="${3:-90}" -f "$here/world.sql"
"$bin/pg_dump" -h "$work" -U supabase_admin -F c -f "$out/world.dump" vital
"$bin/pg_dump" -h "$work" -U supabase_admin vital | gzip -9n >"$out/world.sql.gz"
"$bin/pg_dump" -h "$work" -U supabase_admin -O -x -n public -T public.prompts --exclude-table-data='public.[^o]*' vital | gzip -9n >"$out/poor.sql.gz"
