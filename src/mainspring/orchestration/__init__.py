"""Durable pipelines, schedules, triggers and leases."""
