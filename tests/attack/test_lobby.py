"""Who makes room where no more connections can be held. On a live server: test_floods.py."""

from __future__ import annotations

import math

import pytest

from service.edge.lobby import Lobby

PLACES = 40


class Crowd:
    """Guests of one lobby, by the order in which they came."""

    def __init__(self, places: int = PLACES, taken: int = 0) -> None:
        self.lobby = Lobby(places, lambda: taken)
        self.guests: set[Guest] = set()
        self.sent_away: list[Guest] = []

    def come(self, count: int = 1) -> list[Guest]:
        came = [Guest(self) for _ in range(count)]
        for guest in came:
            self.guests.add(guest)
            self.lobby.enter(guest, self.guests)
        return came


class Guest:
    def __init__(self, crowd: Crowd) -> None:
        self.crowd = crowd
        self.idle_since = math.inf

    def make_room(self) -> None:
        self.crowd.guests.discard(self)
        self.crowd.sent_away.append(self)

    def ask(self, idle_since: float = math.inf) -> None:
        """Ask for something; it is answered by then."""
        self.crowd.lobby.leave(self)
        self.idle_since = idle_since


def test_nobody_goes_while_there_is_room() -> None:
    crowd = Crowd()
    crowd.come(PLACES)
    assert crowd.sent_away == []


def test_nobody_ever_goes_without_a_limit() -> None:
    crowd = Crowd(places=0)
    crowd.come(10 * PLACES)
    assert crowd.sent_away == []


def test_oldest_that_has_asked_for_nothing_goes_first() -> None:
    crowd = Crowd()
    first, second, third = crowd.come(3)
    rest = crowd.come(PLACES - 3)
    second.ask(idle_since=0)
    crowd.come(2)
    assert crowd.sent_away == [first, third]
    crowd.come(PLACES - 3)
    assert crowd.sent_away == [first, third, *rest]
    assert second in crowd.guests


def test_those_idle_for_longest_go_where_all_have_asked() -> None:
    crowd = Crowd()
    came = crowd.come(PLACES)
    for number, guest in enumerate(came):
        guest.ask(idle_since=float(PLACES - number))
    (newcomer,) = crowd.come()
    # Some at once, because it takes a look at all of them.
    assert crowd.sent_away == came[-1:-4:-1]
    assert newcomer in crowd.guests


def test_who_is_served_stays_and_the_newcomer_goes() -> None:
    crowd = Crowd()
    for guest in crowd.come(PLACES):
        guest.ask()
    (newcomer,) = crowd.come()
    assert crowd.sent_away == [newcomer]
    assert len(crowd.guests) == PLACES


@pytest.mark.parametrize("taken", [PLACES - 1, PLACES, 2 * PLACES])
def test_websockets_stay_and_take_places(taken: int) -> None:
    crowd = Crowd(taken=taken)
    guests = crowd.come(3)
    assert crowd.sent_away == (guests[:2] if taken < PLACES else guests)


def test_who_has_gone_is_forgotten() -> None:
    crowd = Crowd()
    for guest in crowd.come(PLACES):
        crowd.guests.discard(guest)
        crowd.lobby.leave(guest)
    crowd.come(PLACES)
    assert crowd.sent_away == []
