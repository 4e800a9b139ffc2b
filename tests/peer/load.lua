-- What wrk sends, and what it tells at the end: one line of JSON.
-- wrk ... -s load.lua URL -- KIND MAC KEY MAC KEY

local stations, turn, build = {}, 0, nil
local first = os.time()     -- so that no seq comes twice, in other rounds either

local kinds = {
  update = function(station, value)
    return wrk.format("GET", "/update/API_key=" .. station.key .. "/mac=" .. station.mac
                             .. "/field=1/data=" .. value)
  end,
  receipt = function(station, value)
    return wrk.format("GET", "/update/API_key=" .. station.key .. "/mac=" .. station.mac
                             .. "/field=1/data=" .. value .. "/age=" .. turn % 7
                             .. "/seq=" .. first .. "-" .. turn)
  end,
  point = function(station, value)
    return wrk.format("POST", "/write?db=iot", nil,
                      "field1,mac=" .. station.mac .. " value=" .. value)
  end,
  page = function()
    return wrk.format("GET", "/")
  end,
}

function init(arguments)
  build = kinds[arguments[1]]
  for i = 2, #arguments, 2 do
    stations[#stations + 1] = { mac = arguments[i], key = arguments[i + 1] }
  end
end

function request()
  turn = turn + 1
  local tenths = turn * 7 % 400
  return build(stations[turn % #stations + 1], string.format("%.1f", tenths / 10 - 10))
end

function done(summary, latency)
  local errors = summary.errors
  print(string.format(
    '{"requests": %d, "seconds": %.6f, "p50": %.3f, "p99": %.3f, "connect": %d, "read": %d,'
      .. ' "write": %d, "status": %d, "timeout": %d}',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.connect, errors.read, errors.write, errors.status,
    errors.timeout))
end
