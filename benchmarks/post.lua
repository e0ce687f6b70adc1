-- A wrk script: posts one payload over and over and checks that every answer is 200 and contains the expected text.
-- Arguments: the file with the payload, its Content-Type, the expected text. Prints one line of JSON.

local threads = {}
local expected
correct, wrong = 0, 0 -- global, because done() reads them with thread:get

function setup(thread)
  threads[#threads + 1] = thread
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  wrk.headers["Content-Type"] = arguments[2]
  expected = arguments[3]
  file:close()
end

function response(status, headers, body)
  if status == 200 and string.find(body, expected, 1, true) then
    correct = correct + 1
  else
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local all_correct, all_wrong = 0, 0
  for _, thread in ipairs(threads) do
    all_correct = all_correct + thread:get("correct")
    all_wrong = all_wrong + thread:get("wrong")
  end
  local errors = summary.errors
  print(string.format(
    '\n{"correct": %d, "wrong": %d, "errors": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}',
    all_correct, all_wrong, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
