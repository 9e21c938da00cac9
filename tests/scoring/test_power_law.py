"""Power laws: the parameters behind exact rates, many samples at once, and rates that no power law falls through."""

import numpy as np
import pytest

from kmed_bench.scoring.power_law import STEEPEST, fit_power_laws

HOURS = np.array([1.25, 2.5, 5.0, 10.0])


@pytest.mark.parametrize(("scale", "exponent", "floor"), [(0.4, 0.3, 0.1), (0.3, 0.5, 0.0), (0.2, 1.2, 0.15)])
def test_exact_rates_give_back_their_parameters(scale: float, exponent: float, floor: float) -> None:
    law = fit_power_laws(HOURS, [scale * HOURS**-exponent + floor], with_floor=True)
    assert (law.scale[0], law.exponent[0], law.floor[0]) == pytest.approx((scale, exponent, floor), abs=1e-6)
    assert law.at([20.0])[0, 0] == pytest.approx(scale * 20**-exponent + floor)


@pytest.mark.parametrize("unit", [60.0, 1 / 60])
@pytest.mark.parametrize("exponent", [0.05, 0.4, 1.5])
def test_the_unit_of_the_amounts_changes_no_rate(exponent: float, unit: float) -> None:
    scale, noise = 0.4, round(100 * exponent)
    rates = scale * HOURS**-exponent * np.random.default_rng(noise).uniform(0.9, 1.1, (3, 4))
    laws, others = (fit_power_laws(hours, rates, with_floor=True) for hours in (HOURS, unit * HOURS))
    assert laws.at(HOURS) == pytest.approx(others.at(unit * HOURS), rel=1e-6)
    assert (laws.scale >= 0).all()
    assert (laws.floor >= 0).all()
    assert ((laws.exponent >= 0) & (laws.exponent <= STEEPEST)).all()


def test_a_fit_beats_its_neighbours() -> None:
    rates = np.array([[0.31, 0.24, 0.22, 0.2]])
    law = fit_power_laws(HOURS, rates, with_floor=True)

    def loss(scale: float, exponent: float, floor: float) -> float:
        return float((((scale * HOURS**-exponent + floor) / rates[0] - 1) ** 2).sum())

    best = (float(law.scale[0]), float(law.exponent[0]), float(law.floor[0]))
    for place, step in [(0, 1e-3), (0, -1e-3), (1, 2e-3), (1, -2e-3), (2, 1e-3), (2, -1e-3)]:
        moved = list(best)
        moved[place] += step
        assert loss(*moved) > loss(*best)


def test_samples_of_several_blocks_are_fitted_one_by_one() -> None:
    rates = np.random.default_rng(1).uniform(0.1, 0.4, (1003, 3))
    together = fit_power_laws(HOURS[:3], rates, with_floor=False)
    alone = fit_power_laws(HOURS[:3], rates[1001:1002], with_floor=False)
    assert together.exponent[1001] == alone.exponent[0]
    assert together.scale[1001] == alone.scale[0]


@pytest.mark.parametrize("with_floor", [True, False])
def test_rising_rates_have_a_flat_fit(with_floor: bool) -> None:
    law = fit_power_laws(HOURS, [[0.1, 0.2, 0.3, 0.4]], with_floor=with_floor)
    fitted = law.at([1.25, 1000.0])[0]
    assert fitted[0] == pytest.approx(fitted[1])
