"""What all Paceline services share: events, Kafka, Postgres, keys, telemetry, grants."""
