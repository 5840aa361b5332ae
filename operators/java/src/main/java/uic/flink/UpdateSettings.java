package uic.flink;

import java.io.Serializable;

/**
 * How the update operator of the batched plan works; jobs/graph.py fills it in.
 *
 * @param python the interpreter's executable on the workers
 * @param shipped names under which files for Python's path (the project's wheel) were registered with the job
 * @param rules JSON for operators/batched.py
 * @param stateName of the memories, operators/contract.py
 * @param capacity events of a batch
 * @param waitMs how long the first event of a batch waits for others
 * @param idleAfterMs users idle for longer, in log time, leave the state; 0: never
 * @param silentBeforeMs memories of earlier log time are published when the log has come so far; 0: all at once
 * @param publishes whether new memories go out as snapshots; false where Python writes the store itself
 */
public record UpdateSettings(
        String python,
        String[] shipped,
        String rules,
        String stateName,
        int capacity,
        long waitMs,
        long idleAfterMs,
        long silentBeforeMs,
        boolean publishes)
        implements Serializable {}
