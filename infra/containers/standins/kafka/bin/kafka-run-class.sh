#!/bin/sh
exec java $KAFKA_HEAP_OPTS -Dlog4j2.configurationFile="${LOG4J:-/etc/kafka/docker/log4j2.yaml}" -cp '/opt/kafka/libs/*' "$@"
