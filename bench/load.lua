-- wrk's side of bench/load.py: a body to POST, if one is asked for, and the result as JSON.
local size = tonumber(os.getenv("BENCH_POST"))
if size > 0 then
    wrk.method = "POST"
    wrk.body = string.rep("x", size)
end

done = function(summary, latency)
    local e = summary.errors
    io.write(string.format(
        '{"requests": %d, "usec": %d, "p50": %.0f, "p99": %.0f, "errors": ' ..
        '{"connect": %d, "read": %d, "write": %d, "timeout": %d, "status": %d}}\n',
        summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
        e.connect, e.read, e.write, e.timeout, e.status))
end
