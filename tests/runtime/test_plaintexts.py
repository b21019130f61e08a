"""The store of encoded constants: once for all images, ahead within a limit, some kept."""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from collections.abc import Callable, Sequence

import pytest

from runtime.plaintexts import PlaintextInfo, PlaintextStore, divide_stages, list_plaintexts
from runtime.trace import InnerTimes
from tests.support import convolution_plan

SIZE = 10
# Three operations with 3, 1 and 2 terms.
INFOS = [PlaintextInfo(k, term, SIZE) for k, n in ((4, 3), (7, 1), (9, 2)) for term in range(n)]


class Plaintext:
    """Stands for an encoded constant."""

    def __init__(self, info: PlaintextInfo) -> None:
        self.info = info


class FakeEncoder:
    """Remembers what it encoded; `before` is called with each of it."""

    def __init__(self, before: Callable[[PlaintextInfo], None] = lambda _: None) -> None:
        self.before = before
        self.ready = True
        self.wanted: list[PlaintextInfo] = []
        self.encoded: list[PlaintextInfo] = []
        self.alive: list[weakref.ref[Plaintext]] = []

    def begin(self, wanted: Sequence[PlaintextInfo]) -> None:
        self.wanted = list(wanted)

    def is_ready(self, info: PlaintextInfo) -> bool:
        return self.ready

    def vector(self, info: PlaintextInfo) -> PlaintextInfo:
        return info

    def encode(self, info: PlaintextInfo, vector: PlaintextInfo) -> Plaintext:
        assert vector is info
        self.before(info)
        self.encoded.append(info)
        made = Plaintext(info)
        self.alive.append(weakref.ref(made))
        return made

    def living(self) -> list[PlaintextInfo]:
        return [made.info for ref in self.alive if (made := ref()) is not None]


def use_all(store: PlaintextStore, images: int = 1) -> None:
    """One run, in which every image uses every operation's constants."""
    for operation in (4, 7, 9):
        for _ in range(images):
            use(store, operation)


def use(store: PlaintextStore, operation: int) -> None:
    terms = []
    for term, plaintext in store.use(operation):
        assert (plaintext.info.operation, plaintext.info.term) == (operation, term)
        terms.append(term)
    assert sorted(terms) == [i.term for i in INFOS if i.operation == operation]


def claim_all(store: PlaintextStore) -> list[PlaintextInfo]:
    claimed = []
    while (info := store.claim()) is not None:
        assert store.held_bytes <= store.ahead_bytes
        claimed.append(info)
    return claimed


def test_plaintexts_of_a_plan() -> None:
    plan = convolution_plan()
    p, infos = plan.parameters, list_plaintexts(plan)
    for info in infos:
        level = plan.types[info.operation].level
        # The primes left, and the slots the plaintext was made from.
        assert info.bytes == (p.levels + 1 - level + 1) * p.ring_dimension * 8
    expected = [
        (number, term)
        for number, o in enumerate(plan.program.operations)
        if o.op.endswith("_plain")
        for term in range(len(o.inputs))
    ]
    assert [(i.operation, i.term) for i in infos] == expected
    assert len({i.bytes for i in infos}) > 1


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("ahead_bytes", [0, 25, 1000])
def test_encoded_once_for_all_images(images: int, ahead_bytes: int) -> None:
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder, ahead_bytes)
    for _ in range(2):
        encoder.encoded.clear()
        store.begin(images)
        assert encoder.wanted == INFOS
        for operation in (4, 7, 9):
            for _ in range(images):
                use(store, operation)
                for info in claim_all(store):
                    store.make(info)
        assert sorted(encoder.encoded, key=INFOS.index) == INFOS
        assert store.held_bytes == 0 and not encoder.living()
        store.end()


def test_dropped_when_the_last_image_has_taken_it() -> None:
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder)
    store.begin(2)
    use(store, 4)
    assert encoder.living() == INFOS[:3] and store.held_bytes == 3 * SIZE
    taking = store.use(4)
    for k in (1, 2):
        next(taking)
        assert encoder.living() == INFOS[k:3] and store.held_bytes == (3 - k) * SIZE


def test_ahead_in_the_order_of_the_plan_within_the_limit() -> None:
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder, ahead_bytes=4 * SIZE + 9)
    store.begin(1)
    next(store.use(4))
    assert claim_all(store) == INFOS[1:5]
    assert store.held_bytes == 4 * SIZE
    for info in INFOS[1:5]:
        store.make(info)
    use(store, 7)
    assert claim_all(store) == INFOS[5:]
    assert encoder.encoded == INFOS[:5]


def test_nothing_ahead_without_a_limit_or_before_the_map_is_expanded() -> None:
    encoder = FakeEncoder()
    without = PlaintextStore(INFOS, encoder)
    without.begin(1)
    assert without.claim() is None
    store = PlaintextStore(INFOS, encoder, 1000)
    store.begin(1)
    encoder.ready = False
    assert store.claim() is None
    encoder.ready = True
    assert store.claim() == INFOS[0]


def test_waits_last_for_what_another_thread_encodes() -> None:
    started, go_on = threading.Event(), threading.Event()

    def before(info: PlaintextInfo) -> None:
        if info == INFOS[0]:
            started.set()
            assert go_on.wait(10)

    store = PlaintextStore(INFOS, FakeEncoder(before), 1000)
    store.begin(1)
    claimed = store.claim()
    assert claimed == INFOS[0]
    other = threading.Thread(target=store.make, args=(claimed,))
    other.start()
    assert started.wait(10)
    taking = store.use(4)
    assert [next(taking)[0] for _ in range(2)] == [1, 2]
    threading.Timer(0.2, go_on.set).start()
    assert next(taking)[0] == 0
    other.join()
    times = store.end()
    assert times.wait > 0.05 > times.encode >= 0


def test_many_threads_take_everything_once() -> None:
    encoder = FakeEncoder()
    infos = [PlaintextInfo(k, term, SIZE) for k in range(20) for term in range(20)]
    store = PlaintextStore(infos, encoder, 50 * SIZE)
    store.begin(4)
    taken: list[PlaintextInfo] = []

    def image() -> None:
        for operation in range(20):
            for _, plaintext in store.use(operation):
                taken.append(plaintext.info)
            for _ in range(5):
                if (info := store.claim()) is not None:
                    store.make(info)

    threads = [threading.Thread(target=image) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert sorted(encoder.encoded, key=infos.index) == infos
    assert len(taken) == 4 * len(infos)
    assert store.held_bytes == 0


def fail_first(info: PlaintextInfo) -> None:
    if info == INFOS[0]:
        raise ArithmeticError("no")


def test_an_error_ahead_is_raised_where_the_plaintext_is_used() -> None:
    encoder = FakeEncoder(fail_first)
    store = PlaintextStore(INFOS, encoder, 1000, cache_bytes=1000)
    store.begin(1)
    with pytest.raises(ArithmeticError, match=r"^no$"):
        store.make(store.claim() or INFOS[0])
    with pytest.raises(ArithmeticError, match=r"^no$"):
        next(store.use(4))
    store.end()
    encoder.before = lambda _: None
    store.begin(1)
    use_all(store)
    assert encoder.encoded == INFOS


def test_an_error_in_a_run_leaves_nothing_behind() -> None:
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder, 1000)
    store.begin(2)
    claimed = store.claim()  # never made: the run was stopped
    assert claimed == INFOS[0]
    next(store.use(7))
    store.end()
    assert store.held_bytes == 0 and not encoder.living()
    encoder.encoded.clear()
    store.begin(1)
    use_all(store)
    assert encoder.encoded == INFOS


@pytest.mark.parametrize("cache_bytes", [0, 9, 35, 60, 1000])
def test_the_first_constants_are_kept(cache_bytes: int) -> None:
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder, 0, cache_bytes)
    kept = INFOS[: cache_bytes // SIZE]
    for wanted in (INFOS, INFOS[len(kept) :], INFOS[len(kept) :]):
        encoder.encoded.clear()
        store.begin(2)
        assert encoder.wanted == wanted
        use_all(store, images=2)
        assert encoder.encoded == wanted
        store.end()
        assert encoder.living() == kept
        assert store.kept_bytes == len(kept) * SIZE <= max(cache_bytes, 0)
    store.close()
    assert not encoder.living() and store.kept_bytes == 0


def test_constants_to_keep_may_be_encoded_ahead_of_any_limit() -> None:
    store = PlaintextStore(INFOS, FakeEncoder(), ahead_bytes=SIZE, cache_bytes=3 * SIZE)
    store.begin(1)
    assert claim_all(store) == INFOS[:4]
    assert store.held_bytes == SIZE and store.kept_bytes == 3 * SIZE


def test_times_of_a_run() -> None:
    encoder = FakeEncoder(lambda info: time.sleep(0.2 if info == INFOS[0] else 0.01))
    store = PlaintextStore(INFOS, encoder, 1000)
    store.begin(1)
    store.make(store.claim() or INFOS[0])  # ahead: not inside an operation
    use_all(store)
    assert 0.05 <= store.end().encode < 0.2
    store.begin(1)
    assert store.end() == InnerTimes()


def test_stages_are_runs_of_operations_that_fit() -> None:
    plan = convolution_plan()
    sizes = [0] * len(plan.program.operations)
    for info in list_plaintexts(plan):
        sizes[info.operation] += info.bytes
    limit = 3 * max(sizes) // 2
    stages = divide_stages(plan, limit)
    assert stages == sorted(stages) and len(set(stages)) == stages[-1] + 1 > 2
    filled = [sum(s for s, k in zip(sizes, stages, strict=True) if k == n) for n in set(stages)]
    assert max(filled) <= limit
    following = [a + b for a, b in itertools.pairwise(filled)]
    assert min(following) > limit  # none ends before it must
    assert set(divide_stages(plan, sum(sizes))) == {0}
    alone = divide_stages(plan, 0)
    assert len(set(alone)) == sum(map(bool, sizes))  # one operation with constants in each


def test_what_images_are_past_is_not_encoded() -> None:
    """Both of them are past operation 4, and one past operation 7."""
    encoder = FakeEncoder()
    store = PlaintextStore(INFOS, encoder, 1000)
    store.begin(2, {4: 2, 7: 1})
    left = [info for info in INFOS if info.operation != 4]
    assert encoder.wanted == left
    assert claim_all(store) == left
    for info in left:
        store.make(info)
    use(store, 7)
    assert not [info for info in encoder.living() if info.operation == 7]
    use(store, 9)
    assert len(encoder.living()) == len([info for info in INFOS if info.operation == 9])
    use(store, 9)
    assert encoder.living() == [] and store.held_bytes == 0
    store.end()
    store.begin(1)
    assert encoder.wanted == INFOS
