"""Kafka: the publisher of the outbox and the one way to consume."""

from paceline_common.kafka.subscribe import Delivery, EventFault, Subscription

__all__ = ["Delivery", "EventFault", "Subscription"]
