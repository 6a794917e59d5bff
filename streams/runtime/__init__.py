"""What runs the stages: Faust on Kafka, the in-process runtime, Kafka clients, offsets and the watchdog."""
