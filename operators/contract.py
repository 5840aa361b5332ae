"""What a savepoint is read by for years: names, numbers and formats that must never change silently.

Flink finds an operator's state by the operator's uid, the state in it by name, a user in it by key group (the key's hash and
the maximum parallelism). Change any of these and a saved memory is not found, which looks like a new user.

State of the operator `UPDATE` of either plan, keyed by ROW<STRING>, the user id:
    `MEMORY`     ValueState of raw bytes, the blob of uic/codec.py; no pickle around it
    `CONTROL`    broadcast state where there is a control topic: MapState of text to raw bytes; `PROMOTE`: the last such
                 message that was heeded (operators/control.py), byte for byte
    timers       one event-time timer a user where idle users leave (the service "user-timers", PyFlink's own name)

The sources `EVENTS` and `CONTROL_TOPIC` keep the offsets of their topics; the sinks `PUBLISH` and `REFUSED` keep nothing.

State of the operator `READ`, keyed by ROW<STRING>, always the constant `READER_KEY`:
    `POSITION`   ValueState of raw bytes: JSON, see operators/lines.py
    `FINISHED`   ValueState of raw bytes: JSON, {file name: bytes read of it} of every file before the position
"""

HEARTBEAT = "heartbeat"
HEARTBEAT_ROWS = "heartbeat-rows"
READ = "read-events"
UPDATE = "update-memory"
EVENTS = "events-topic"
PUBLISH = "publish"
REFUSED = "refused-keys"
CONTROL_TOPIC = "control-topic"

MEMORY = "memory"
CONTROL = "control"
PROMOTE = "promote"
POSITION = "position"
FINISHED = "finished-files"

READER_KEY = "reader"
MAX_PARALLELISM = 128
