#!/usr/bin/env bash
# Fetch and build what infra/pom.xml names, into infra/jars. Maven and a Java compiler are installed where we may.
set -euo pipefail
cd "$(dirname "$0")"

has_compiler() {
	local version
	version=$(javac -version 2>&1 | sed -nE 's/^javac ([0-9]+).*/\1/p')
	[ "${version:-0}" -ge 17 ]
}

missing=()
command -v mvn > /dev/null || missing+=(maven)
if ! has_compiler; then
	jdk=default-jdk-headless
	if apt-cache show openjdk-17-jdk-headless > /dev/null 2>&1; then jdk=openjdk-17-jdk-headless; fi
	missing+=("$jdk")
fi

if [ ${#missing[@]} -gt 0 ]; then
	by_hand="apt-get update && apt-get install -y maven default-jdk-headless"
	if ! command -v apt-get > /dev/null; then
		echo "Maven and a Java compiler (17 or newer) are needed, and there is no apt-get here. Install both; on Debian: $by_hand" >&2
		exit 1
	fi
	as_root=()
	if [ "$(id -u)" -ne 0 ]; then
		if ! sudo -n true 2> /dev/null; then
			echo "Missing: ${missing[*]}, and only root may install. Run: sudo sh -c '$by_hand'" >&2
			exit 1
		fi
		as_root=(sudo -n)
	fi
	echo "Installing ${missing[*]} with apt-get"
	log=$(mktemp)
	apt_get=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get)
	# A package list that is months old names versions that are gone.
	if ! { "${apt_get[@]}" update && "${apt_get[@]}" install -y --no-install-recommends "${missing[@]}"; } > "$log" 2>&1; then
		tail -5 "$log" >&2
		echo "Could not be installed by apt-get. Run: $by_hand" >&2
		exit 1
	fi
	rm "$log"
	hash -r
	# After an older one has been there, it may still come first.
	has_compiler || { echo "javac is $(javac -version 2>&1), 17 or newer is needed: put one first on the PATH" >&2; exit 1; }
fi

if ! mvn -B -q -Dstyle.color=never clean package; then
	echo "The jars could not be built: Maven's words stand above. Is Maven Central reachable (https://repo.maven.apache.org)?" >&2
	exit 1
fi
touch jars/.ready
echo "infra/jars: $(find jars/job -name '*.jar' | wc -l) jars of the job, $(find jars/broker -name '*.jar' | wc -l) of the broker"
