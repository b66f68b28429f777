"""JAX and Optax with a forecast: a small network that tells three spirals apart.

python examples/spirals_optax.py --steps 2000 --target 0.05
"""

import argparse
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lossforecast import RunInfo
from lossforecast.callbacks import LossForecast

WIDTHS = (2, 32, 32, 3)


def batch(key: Any, size: int = 128) -> tuple[Any, Any]:
    """Points (size, 2) on three noisy spirals, and which spiral each is on (size,)."""
    arm, way, noise = jax.random.split(key, 3)
    label = jax.random.randint(arm, (size,), 0, 3)
    radius = jax.random.uniform(way, (size,))
    angle = 5 * radius + 2 * jnp.pi / 3 * label + 0.3 * jax.random.normal(noise, (size,))
    return jnp.stack([radius * jnp.cos(angle), radius * jnp.sin(angle)], axis=1), label


def loss_of(weights: Any, points: Any, labels: Any) -> Any:
    """Mean cross-entropy in nats."""
    for matrix, bias in weights[:-1]:
        points = jax.nn.gelu(points @ matrix + bias)
    matrix, bias = weights[-1]
    logits = points @ matrix + bias
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def main() -> None:
    """Train, and print where the loss is heading."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000, help="optimizer steps")
    parser.add_argument("--target", type=float, help="stop when this loss is out of reach")
    args = parser.parse_args()

    keys = jax.random.split(jax.random.key(0), len(WIDTHS))
    weights = [
        (jax.random.normal(key, (n, m)) / n**0.5, jnp.zeros(m))
        for key, n, m in zip(keys, WIDTHS[:-1], WIDTHS[1:], strict=False)
    ]
    schedule = optax.warmup_cosine_decay_schedule(0, 1e-2, args.steps // 20, args.steps)
    optimizer = optax.adamw(schedule)
    state = optimizer.init(weights)

    @jax.jit
    def train_step(weights: Any, state: Any, key: Any) -> tuple[Any, Any, Any]:
        loss, gradients = jax.value_and_grad(loss_of)(weights, *batch(key))
        updates, state = optimizer.update(gradients, state, weights)
        return optax.apply_updates(weights, updates), state, loss

    run = RunInfo(optimizer="adamw", n_params=sum(x.size for x in jax.tree.leaves(weights)))
    with LossForecast(schedule, args.steps, target=args.target, stop=True, run=run) as forecast:
        for key in jax.random.split(keys[-1], args.steps):
            weights, state, loss = train_step(weights, state, key)
            forecast.step(loss)
            if forecast.should_stop:
                break

    print(forecast.recommendation.message)


if __name__ == "__main__":
    main()
