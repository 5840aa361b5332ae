#!/usr/bin/env bash
# Kafka as a container's only process: its data folder is made at the first start. The argument is the folder of jars and settings.
set -euo pipefail
home=$1
java=(java "-Dlog4j.configurationFile=$home/log4j2.properties" -cp "$home/jars/*")
# One cluster id for good: a folder that has one already is left as it is.
"${java[@]}" -Xmx128m kafka.tools.StorageTool format --standalone --ignore-formatted \
	--cluster-id "${KAFKA_CLUSTER_ID:-uicuicuicuicuicuicuicg}" --config "$home/server.properties" > /dev/null
exec "${java[@]}" "-Xmx${KAFKA_HEAP:-512m}" kafka.Kafka "$home/server.properties"
