-- For wrk: posts one payload over and over, and looks for the expected text in every answer.
-- Arguments: the file with the payload, its Content-Type, the expected text. Prints one line of JSON.

local threads = {}
local expected
right, wrong = 0, 0 -- global, so that done() finds them

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
    right = right + 1
  else
    wrong = wrong + 1
  end
end

function done(summary, latency, requests)
  local all_right, all_wrong = 0, 0
  for _, thread in ipairs(threads) do
    all_right = all_right + thread:get("right")
    all_wrong = all_wrong + thread:get("wrong")
  end
  local errors = summary.errors
  print(string.format(
    '\n{"right": %d, "wrong": %d, "errors": %d, "seconds": %f, "p50_ms": %f, "p99_ms": %f}',
    all_right, all_wrong, errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
