"""Virtual time: sleeping costs nothing, ticks wrap as they do on the board."""
from world import TICKS, world


def ticks_ms():
    return world.ticks()


def ticks_add(ticks, delta):
    return (ticks + delta) % TICKS


def ticks_diff(end, start):
    return (end - start + TICKS // 2) % TICKS - TICKS // 2


def sleep_ms(milliseconds):
    world.rest(milliseconds)


def sleep(seconds):
    world.rest(int(seconds * 1000))


def gmtime():
    return (world.state.get("clock", 2000), 1, 1, 0, 0, 0, 5, 1)
