-- What wrk sends, and what it tells at the end: one line of JSON.
-- wrk ... -s load.lua URL -- KIND MAC KEY MAC KEY

local stations, turn, build = {}, 0, nil
local first = os.time()     -- so that no seq comes twice, in other rounds either

local kinds
kinds = {
  update = function(station, value)
    return wrk.format("GET", "/update/API_key=" .. station.key .. "/mac=" .. station.mac
                             .. "/field=1/data=" .. value)
  end,
  query = function(station, value)        -- as ThingSpeak's clients write it
    return wrk.format("GET", "/update?api_key=" .. station.key .. "&field1=" .. value)
  end,
  receipt = function(station, value)      -- a station's readings come in order of time
    return kinds.named(station, value .. "/age=1")
  end,
  late = function(station, value)         -- here they do not: they go to seven places of a series
    return kinds.named(station, value .. "/age=" .. turn % 7)
  end,
  named = function(station, value)
    return kinds.update(station, value .. "/seq=" .. first .. "-" .. turn)
  end,
  report = function(station, value)
    return wrk.format("POST", "/data/report/" .. station.key, nil,
                      "PASSKEY=50E4A2B2A92ED2BB4CEFD4478A6312F9&stationtype=GW2000B_V2.1.8"
                      .. "&runtime=1755701&dateutc=now&tempinf=68.90&humidityin=42"
                      .. "&baromrelin=29.244&baromabsin=29.323&tempf=" .. value
                      .. "&humidity=99&winddir=60&windspeedmph=1.34&windgustmph=2.24"
                      .. "&maxdailygust=12.53&solarradiation=0.00&uv=0&rainratein=0.000"
                      .. "&eventrainin=1.689&hourlyrainin=0.000&dailyrainin=0.567"
                      .. "&totalrainin=1.697&wh65batt=0&freq=915M&model=GW2000B")
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
