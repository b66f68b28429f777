-- A store as version 3 of the schema made it, with a run, for both databases. Never changed.

CREATE TABLE lossforecast_version (
    version INTEGER NOT NULL
);

CREATE TABLE lossforecast_runs (
    "key" VARCHAR(32) NOT NULL,
    name TEXT NOT NULL,
    project TEXT,
    task TEXT,
    model TEXT,
    dataset TEXT,
    optimizer TEXT,
    monitor TEXT,
    n_params DOUBLE PRECISION,
    batch_size DOUBLE PRECISION,
    metric VARCHAR(8) NOT NULL,
    state VARCHAR(16) NOT NULL,
    step BIGINT NOT NULL,
    outcome DOUBLE PRECISION,
    excluded BOOLEAN NOT NULL,
    started VARCHAR(40) NOT NULL,
    updated VARCHAR(40) NOT NULL,
    schedule TEXT NOT NULL,
    curve TEXT,
    owner VARCHAR(32) DEFAULT '' NOT NULL,
    PRIMARY KEY ("key")
);

CREATE INDEX ix_lossforecast_runs_metric ON lossforecast_runs (metric);

CREATE TABLE lossforecast_forecasts (
    run VARCHAR(32) NOT NULL,
    made_at BIGINT NOT NULL,
    step BIGINT NOT NULL,
    median DOUBLE PRECISION,
    mean DOUBLE PRECISION,
    std DOUBLE PRECISION,
    lower80 DOUBLE PRECISION,
    upper80 DOUBLE PRECISION,
    lower95 DOUBLE PRECISION,
    upper95 DOUBLE PRECISION,
    status VARCHAR(32) NOT NULL,
    gain_mean DOUBLE PRECISION,
    gain_std DOUBLE PRECISION,
    gain_source VARCHAR(16) NOT NULL,
    PRIMARY KEY (run, made_at)
);

CREATE TABLE lossforecast_decisions (
    run VARCHAR(32) NOT NULL,
    step BIGINT NOT NULL,
    action VARCHAR(32) NOT NULL,
    reason VARCHAR(64) NOT NULL,
    message TEXT NOT NULL,
    PRIMARY KEY (run, step)
);

INSERT INTO lossforecast_version VALUES (3);

INSERT INTO lossforecast_runs VALUES (
    '0123456789abcdef0123456789abcdef', 'first', 'old', 'language modelling', 'GPT', 'text', 'adamw',
    'val_loss', 1e6, 64, 'val', 'finished', 999, 2.5, FALSE,
    '2026-11-01T10:00:00+00:00', '2026-11-01T12:00:00+00:00',
    '{"pieces":{"stop":[1000],"shape":[0],"x0":[0.0],"x1":[1000.0],"y0":[0.001],"y1":[0.001]},"values":[],"caveats":[]}',
    NULL, ''
);

INSERT INTO lossforecast_forecasts VALUES (
    '0123456789abcdef0123456789abcdef', 500, 1000, 2.75, 2.75, 0.1, 2.6, 2.9, 2.55, 2.95, 'identified',
    0.2, 0.05, 'prior'
);

INSERT INTO lossforecast_decisions VALUES (
    '0123456789abcdef0123456789abcdef', 500, 'stop', 'target_miss', 'It will end above the target.'
);
