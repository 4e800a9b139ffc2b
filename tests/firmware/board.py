"""Runs in MicroPython as the board does: boot.py, then main.py, unmodified, in a small heap."""
import gc
import sys

sys.path[:] = [sys.argv[1], sys.argv[2], "."]  # fakes, firmware, the board's flash

import world  # noqa: E402

sky = world.world
for name in ("time", "machine", "network", "socket", "dht", "onewire"):  # not from the flash
    __import__(name)
gc.collect()
gc.threshold((gc.mem_free() + gc.mem_alloc()) // 4)  # as the board's _boot.py does
sky.log("boot", gc.mem_free())


def power_on():
    try:
        __import__("boot")
        __import__("main")
    except world.Reset:
        return "reset"
    except world.End:
        return "end"
    except KeyboardInterrupt:
        return "interrupt"
    return "returned"


how = power_on()
sky.close(how)
print("\nover:", how)
