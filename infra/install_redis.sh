#!/usr/bin/env bash
# Bring `redis-server`, which the tests of the store in Redis start for themselves: Debian's package, where we may install it.
set -euo pipefail

# Whoever names another server (jobs/dev/redis_servers.py) brings it.
server=${UIC_REDIS_SERVER:-redis-server}
if command -v "$server" > /dev/null; then exit 0; fi
if [ "$server" != redis-server ]; then
	echo "$server: no such program on this machine; UIC_REDIS_SERVER names it. Without that redis-server is run" >&2
	exit 1
fi
by_hand="apt-get update && apt-get install -y redis-server"
if ! command -v apt-get > /dev/null; then
	echo "redis-server is needed, and there is no apt-get here. Install Redis 7 or newer, or name a Valkey: UIC_REDIS_SERVER=valkey-server; on Debian: $by_hand" >&2
	exit 1
fi
as_root=()
if [ "$(id -u)" -ne 0 ]; then
	if ! sudo -n true 2> /dev/null; then
		echo "redis-server is missing, and only root may install it. Run: sudo sh -c '$by_hand'" >&2
		exit 1
	fi
	as_root=(sudo -n)
fi
echo "Installing redis-server with apt-get"
log=$(mktemp)
# The service that the package would start is nobody's: tests start servers of their own.
apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get)
if ! { "${apt_get[@]}" update && "${apt_get[@]}" install -y --no-install-recommends redis-server; } > "$log" 2>&1; then
	tail -5 "$log" >&2
	echo "Could not be installed by apt-get. Run: $by_hand" >&2
	exit 1
fi
rm "$log"
