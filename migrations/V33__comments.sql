-- What \dn+ and \d+ show: a comment on every schema, table, view and column.

COMMENT ON TABLE ledger.schema_history IS 'Migrations of Sluice that were applied.';
COMMENT ON COLUMN ledger.schema_history.version IS 'The number of the migration.';
COMMENT ON COLUMN ledger.schema_history.name IS 'Its name.';
COMMENT ON COLUMN ledger.schema_history.applied_on IS 'When it was applied.';
COMMENT ON COLUMN ledger.schema_history.checksum IS 'Of its name and text, so that a changed one is noticed.';

COMMENT ON SCHEMA ledger IS 'Money, progress and verdicts: written by the functions of schema sluice alone.';

COMMENT ON COLUMN ledger.partition_leases.partition_id IS 'Stands for topic and partition within this database.';
COMMENT ON COLUMN ledger.partition_leases.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_leases.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_leases.leader_svc_id IS 'The instance that leads, by its SERVICE_ID; NULL while none does. Whether its lease and its session still stand: ledger.partition_leader_locks.';
COMMENT ON COLUMN ledger.partition_leases.lease_id IS 'The present lease, known to its leader alone; NULL while none leads.';
COMMENT ON COLUMN ledger.partition_leases.lease_expires_at IS 'When the lease ends, by the database''s clock.';
COMMENT ON COLUMN ledger.partition_leases.session_pid IS 'The leader''s database session that renews the lease: once it has ended the partition is free.';
COMMENT ON COLUMN ledger.partition_leases.stepped_down_until IS 'Until when stepped_down_svc_id stays away.';

COMMENT ON COLUMN ledger.partition_progress.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.partition_progress.fencing_token IS 'The number of the present leadership: it grows with each acquisition, and a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_progress.lease_id IS 'The lease that the present leadership began with; a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_progress.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_progress.paused_reason IS 'Why no batch is taken; NULL: not paused.';

COMMENT ON COLUMN ledger.offset_holes.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.offset_holes.first_offset IS 'The first offset without a record.';
COMMENT ON COLUMN ledger.offset_holes.next_offset IS 'The first offset behind the hole.';

COMMENT ON COLUMN ledger.topic_starts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.topic_starts.partitions IS 'How many partitions the topic had then; 0: it did not exist.';
COMMENT ON COLUMN ledger.topic_starts.first_started_at IS 'When Sluice first started on the topic.';

COMMENT ON COLUMN ledger.ingester_instances.service_id IS 'The instance, by its SERVICE_ID.';
COMMENT ON COLUMN ledger.ingester_instances.session_pid IS 'The database session that sends the heartbeats.';
COMMENT ON COLUMN ledger.ingester_instances.topics IS 'The topics that the instance reads.';
COMMENT ON COLUMN ledger.ingester_instances.expires_at IS 'When the heartbeat is no longer fresh.';

COMMENT ON COLUMN ledger.partition_reports.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.partition_reports.service_id IS 'The leader that reports.';
COMMENT ON COLUMN ledger.partition_reports.reported_at IS 'When it reported.';
COMMENT ON COLUMN ledger.partition_reports.state IS 'What the leader does with the partition: running, retrying, halted and so on.';
COMMENT ON COLUMN ledger.partition_reports.reason IS 'Why it does not run; NULL where it does.';
COMMENT ON COLUMN ledger.partition_reports.lag IS 'Records in Kafka that are not committed yet.';
COMMENT ON COLUMN ledger.partition_reports.records_per_second IS 'Records committed in a second, lately.';
COMMENT ON COLUMN ledger.partition_reports.batch_records IS 'Records of the last batch.';
COMMENT ON COLUMN ledger.partition_reports.copy_us IS 'Microseconds of staging the last batch.';
COMMENT ON COLUMN ledger.partition_reports.apply_us IS 'Microseconds of applying the last batch.';
COMMENT ON COLUMN ledger.partition_reports.commit_us IS 'Microseconds of committing the last batch.';

COMMENT ON COLUMN ledger.partition_actions.id IS 'Counts the actions.';
COMMENT ON COLUMN ledger.partition_actions.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_actions.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_actions.action IS 'PAUSE, RESUME, STEP_DOWN, HALT, ACCEPT or PRUNE.';
COMMENT ON COLUMN ledger.partition_actions.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.partition_actions.acted_at IS 'When it was done.';

COMMENT ON COLUMN ledger.account_balances.account_id IS 'The account.';
COMMENT ON COLUMN ledger.account_balances.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.account_balances.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.account_balances.available IS 'What the account can spend; never negative.';
COMMENT ON COLUMN ledger.account_balances.frozen IS 'What is set aside; never negative.';
COMMENT ON COLUMN ledger.account_balances.updated_msec IS 'When the balance last changed, in milliseconds since 1970, by the database''s clock.';
COMMENT ON COLUMN ledger.account_balances.last_partition_id IS 'See last_offset.';
COMMENT ON COLUMN ledger.account_balances.last_change_no IS 'See last_offset.';

COMMENT ON COLUMN ledger.balance_log.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.balance_log.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_log.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.balance_log.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_log.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.balance_log.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.balance_log.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_log.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.balance_log.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.balance_log.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_log.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_log.reject_reason IS 'Why the event was rejected; NULL: it was applied.';
COMMENT ON COLUMN ledger.balance_log.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.balance_log.previous_partition_id IS 'See previous_offset.';
COMMENT ON COLUMN ledger.balance_log.previous_change_no IS 'See previous_offset.';

COMMENT ON COLUMN ledger.staging_balance_changes.piece IS 'A piece of the bytes of a batch: docs/internals.md has their format.';

COMMENT ON COLUMN ledger.manual_corrections.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.manual_corrections.kafka_offset IS 'The offset of the correction among all corrections.';
COMMENT ON COLUMN ledger.manual_corrections.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.manual_corrections.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.manual_corrections.payload IS 'The correction as an event.';
COMMENT ON COLUMN ledger.manual_corrections.corrected_at IS 'When it was made.';

COMMENT ON COLUMN ledger.retention.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.retention.pruned_below IS 'The first offset that is left.';
COMMENT ON COLUMN ledger.retention.pruned_at IS 'When the partition was last pruned.';
COMMENT ON COLUMN ledger.retention.pruned_by IS 'The database login that pruned it.';

COMMENT ON COLUMN ledger.balance_checkpoints.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_checkpoints.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_checkpoints.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_checkpoints.available IS 'What the removed changes add to available.';
COMMENT ON COLUMN ledger.balance_checkpoints.frozen IS 'What the removed changes add to frozen.';

COMMENT ON COLUMN ledger.record_keeping.is_the_only_row IS 'Keeps the table at one row.';

COMMENT ON COLUMN ledger.event_identities.identity IS '128 bits of BLAKE3 of source and event id.';
COMMENT ON COLUMN ledger.event_identities.payload_hash IS '128 bits of BLAKE3 of the payload: a later event of the same identity with another payload is in conflict.';
COMMENT ON COLUMN ledger.event_identities.partition_id IS 'See kafka_offset.';

COMMENT ON COLUMN ledger.event_conflicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.event_conflicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.event_conflicts.identity IS 'The identity that another record owns.';

COMMENT ON COLUMN ledger.verdicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.verdicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.verdicts.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.verdicts.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.verdicts.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.verdicts.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.verdicts.created_at IS 'When the verdict was committed; of what was there before version 0.5.0, when that was installed.';

COMMENT ON COLUMN ledger.dead_letters.id IS 'Names the letter in sluice dlq and in the functions for dead letters.';
COMMENT ON COLUMN ledger.dead_letters.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.dead_letters.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.dead_letters.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.dead_letters.event_id IS 'The event''s id, where it could be read.';
COMMENT ON COLUMN ledger.dead_letters.key IS 'The record''s key, byte for byte.';
COMMENT ON COLUMN ledger.dead_letters.payload IS 'The record''s payload, byte for byte; NULL: a tombstone.';
COMMENT ON COLUMN ledger.dead_letters.error_code IS 'Why it is dead: the reason of its verdict.';
COMMENT ON COLUMN ledger.dead_letters.error_message IS 'The same in words, or the database''s error.';
COMMENT ON COLUMN ledger.dead_letters.attempts IS 'How often it was tried.';
COMMENT ON COLUMN ledger.dead_letters.status IS 'PARKED: open. REPLAYED: its verdict says what it became. DISCARDED: given up by hand.';
COMMENT ON COLUMN ledger.dead_letters.first_failed_at IS 'When it was first refused.';
COMMENT ON COLUMN ledger.dead_letters.updated_at IS 'When it was last tried, replayed, discarded or restored.';

COMMENT ON COLUMN ledger.dead_letter_actions.id IS 'Counts the actions.';
COMMENT ON COLUMN ledger.dead_letter_actions.dead_letter_id IS 'The letter.';
COMMENT ON COLUMN ledger.dead_letter_actions.action IS 'REPLAY, DISCARD, RESTORE or BURY.';
COMMENT ON COLUMN ledger.dead_letter_actions.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.dead_letter_actions.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.dead_letter_actions.verdict IS 'What the letter became.';
COMMENT ON COLUMN ledger.dead_letter_actions.reason IS 'Why it stayed dead or was rejected.';
COMMENT ON COLUMN ledger.dead_letter_actions.acted_at IS 'When it was done.';

COMMENT ON COLUMN ledger.burials.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.burials.kafka_offset IS 'The offset of the record that is given up.';
COMMENT ON COLUMN ledger.burials.by_user IS 'The database login that did it.';
COMMENT ON COLUMN ledger.burials.why IS 'The reason that was given.';
COMMENT ON COLUMN ledger.burials.ordered_at IS 'When it was ordered.';
COMMENT ON COLUMN ledger.burials.settled_at IS 'When the order was carried out, found no record or was withdrawn.';

COMMENT ON COLUMN ledger.event_handlers.event_type IS 'The type, which is also the name of its topic.';
COMMENT ON COLUMN ledger.event_handlers.handler IS 'The function that gets the events, with its schema.';
COMMENT ON COLUMN ledger.event_handlers.parks_key IS 'Whether later records of a key are parked behind a dead one.';
COMMENT ON COLUMN ledger.event_handlers.max_failures IS 'The topic pauses when the handler breaks on more than these of the last failure_window events of a partition.';
COMMENT ON COLUMN ledger.event_handlers.failure_window IS 'How many of the last events max_failures counts.';
COMMENT ON COLUMN ledger.event_handlers.registered_at IS 'When the handler was registered.';
COMMENT ON COLUMN ledger.event_handlers.registered_by IS 'The database login that registered it.';
COMMENT ON COLUMN ledger.event_handlers.paused_at IS 'Since when the topic is paused; NULL: it is not.';
COMMENT ON COLUMN ledger.event_handlers.pause_reason IS 'Why the topic is paused.';
COMMENT ON COLUMN ledger.event_handlers.resumed_at IS 'When it was last resumed.';

COMMENT ON COLUMN ledger.results_progress.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.results_progress.next_offset IS 'The offset of the next record whose verdict is to be produced.';

COMMENT ON COLUMN ledger.changed_verdicts.id IS 'Gives the changes their order.';
COMMENT ON COLUMN ledger.changed_verdicts.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.changed_verdicts.kafka_offset IS 'The offset of the record in its partition.';

COMMENT ON COLUMN ledger.result_headers.partition_id IS 'Stands for topic and partition within this database: ledger.partition_leases has both.';
COMMENT ON COLUMN ledger.result_headers.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.result_headers.headers IS 'Kafka headers in order, as in dead_letters.headers.';

COMMENT ON COLUMN ledger.partition_leader_locks.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_leader_locks.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_leader_locks.leader_svc_id IS 'The instance that leads the partition, by its SERVICE_ID; NULL while none does.';
COMMENT ON COLUMN ledger.partition_leader_locks.fencing_token IS 'The number of the present leadership: it grows with each acquisition, and a batch with another one is refused.';
COMMENT ON COLUMN ledger.partition_leader_locks.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_leader_locks.lease_expires_at IS 'When the lease ends, by the database''s clock.';
COMMENT ON COLUMN ledger.partition_leader_locks.paused_reason IS 'Why no batch is taken; NULL: not paused.';
COMMENT ON COLUMN ledger.partition_leader_locks.stepped_down_svc_id IS 'The instance that stays away since sluice.step_down took the partition from it; NULL: none.';

COMMENT ON COLUMN ledger.live_instances.service_id IS 'The instance, by its SERVICE_ID.';
COMMENT ON COLUMN ledger.live_instances.topics IS 'The topics that the instance reads.';

COMMENT ON COLUMN ledger.partition_halts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_halts.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_halts.reason IS 'Why the topic was not recognised.';
COMMENT ON COLUMN ledger.partition_halts.halted_at IS 'When the partition halted.';
COMMENT ON COLUMN ledger.partition_halts.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';

COMMENT ON COLUMN ledger.partition_status.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.partition_status.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.partition_status.leader_svc_id IS 'The instance that leads the partition, by its SERVICE_ID; NULL while none does.';
COMMENT ON COLUMN ledger.partition_status.lease_left IS 'How long the lease lasts without a renewal.';
COMMENT ON COLUMN ledger.partition_status.state IS 'running, starting, retrying, paused, halted, no leader and so on.';
COMMENT ON COLUMN ledger.partition_status.reason IS 'Why the partition does not run; NULL where it does.';
COMMENT ON COLUMN ledger.partition_status.commit_offset IS 'The offset of the next record to read: every record below it has a verdict.';
COMMENT ON COLUMN ledger.partition_status.lag IS 'Records in Kafka that are not committed yet.';
COMMENT ON COLUMN ledger.partition_status.records_per_second IS 'Records committed in a second, lately.';
COMMENT ON COLUMN ledger.partition_status.reported_at IS 'When the leader last reported; NULL: more than 10 s ago.';
COMMENT ON COLUMN ledger.partition_status.last_batch_records IS 'Records of the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_copy_us IS 'Microseconds of staging the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_apply_us IS 'Microseconds of applying the last batch.';
COMMENT ON COLUMN ledger.partition_status.last_commit_us IS 'Microseconds of committing the last batch.';

COMMENT ON COLUMN ledger.balance_change_logs.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.balance_change_logs.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.balance_change_logs.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.balance_change_logs.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.balance_change_logs.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.balance_change_logs.account_id IS 'The account.';
COMMENT ON COLUMN ledger.balance_change_logs.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.balance_change_logs.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.balance_change_logs.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.balance_change_logs.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.balance_change_logs.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_change_logs.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.balance_change_logs.status IS 'APPLIED or REJECTED.';
COMMENT ON COLUMN ledger.balance_change_logs.reject_reason IS 'Why the event was rejected; NULL: it was applied.';
COMMENT ON COLUMN ledger.balance_change_logs.created_at IS 'Database time at which the batch held all its balances locked.';
COMMENT ON COLUMN ledger.balance_change_logs.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.balance_change_logs.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

COMMENT ON COLUMN ledger.event_verdicts.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.event_verdicts.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.event_verdicts.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.event_verdicts.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN ledger.event_verdicts.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.event_verdicts.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.event_verdicts.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.event_verdicts.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

COMMENT ON COLUMN ledger.account_history.account_id IS 'The account.';
COMMENT ON COLUMN ledger.account_history.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.account_history.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.account_history.nth IS 'Counts back from the last change, which is 1.';
COMMENT ON COLUMN ledger.account_history.created_at IS 'Database time of the change; of a balance brought forward, of the last change that was pruned.';
COMMENT ON COLUMN ledger.account_history.available_delta IS 'What the change adds to available; may be negative.';
COMMENT ON COLUMN ledger.account_history.frozen_delta IS 'What the change adds to frozen; may be negative.';
COMMENT ON COLUMN ledger.account_history.available_after IS 'What is available after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.account_history.frozen_after IS 'What is frozen after the change; of a rejected one, what it met.';
COMMENT ON COLUMN ledger.account_history.event_id IS 'The event''s id; NULL: the balance brought forward.';
COMMENT ON COLUMN ledger.account_history.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN ledger.account_history.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.account_history.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.account_history.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.account_history.change_no IS 'The place of the change within its event, counted from 0.';
COMMENT ON COLUMN ledger.account_history.event_time IS 'The event''s own time, its envelope''s timestamp; NULL where it gave none.';

COMMENT ON COLUMN ledger.hot_accounts.account_id IS 'The account.';
COMMENT ON COLUMN ledger.hot_accounts.shard_id IS 'The shard of the account; 0 where the event named none.';
COMMENT ON COLUMN ledger.hot_accounts.currency_code IS 'The currency: 2 to 16 capital letters or digits.';
COMMENT ON COLUMN ledger.hot_accounts.changes IS 'How often the balance was changed.';
COMMENT ON COLUMN ledger.hot_accounts.rejected IS 'How many of these changes were rejected.';
COMMENT ON COLUMN ledger.hot_accounts.partitions IS 'How many partitions changed it.';
COMMENT ON COLUMN ledger.hot_accounts.last_change_at IS 'When it was last changed.';

COMMENT ON COLUMN ledger.verdict_summary.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.verdict_summary.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.verdict_summary.verdict IS 'APPLIED, REJECTED, DUPLICATE or DEAD.';
COMMENT ON COLUMN ledger.verdict_summary.reason IS 'Why the record was rejected or is dead; NULL otherwise.';
COMMENT ON COLUMN ledger.verdict_summary.records IS 'How many records have this verdict for this reason.';
COMMENT ON COLUMN ledger.verdict_summary.last_offset IS 'The highest offset of these records.';

COMMENT ON COLUMN ledger.kept_dead_letters.id IS 'The dead letter.';
COMMENT ON COLUMN ledger.kept_dead_letters.topic IS 'The Kafka topic.';
COMMENT ON COLUMN ledger.kept_dead_letters.partition IS 'The partition of the topic, counted from 0.';
COMMENT ON COLUMN ledger.kept_dead_letters.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN ledger.kept_dead_letters.by_hand IS 'Whether it is kept because somebody acted on it, and not because it is open.';

COMMENT ON COLUMN domain.event.kafka_offset IS 'The offset of the record in its partition.';
COMMENT ON COLUMN domain.event.event_id IS 'The event''s id as its sender gave it: eventId of the envelope.';
COMMENT ON COLUMN domain.event.source IS 'Who sent the event, as the envelope says; NULL: not given. With event_id it is the event''s identity.';
COMMENT ON COLUMN domain.event.data IS 'The field data of the envelope.';

COMMENT ON COLUMN domain.text_list.items IS 'The texts of the array.';

COMMENT ON COLUMN domain.users.user_id IS 'The user.';
COMMENT ON COLUMN domain.users.username IS 'The name that the user chose.';
COMMENT ON COLUMN domain.users.email IS 'The user''s address.';
COMMENT ON COLUMN domain.users.role IS 'The role, in the platform''s own words.';
COMMENT ON COLUMN domain.users.display_name IS 'The name that others see.';
COMMENT ON COLUMN domain.users.bio IS 'What the user says of themselves.';
COMMENT ON COLUMN domain.users.avatar_url IS 'Address of the picture.';
COMMENT ON COLUMN domain.users.created_at IS 'When the user was created, by the event.';
COMMENT ON COLUMN domain.users.username_version IS 'Version of username, where later than created_version.';
COMMENT ON COLUMN domain.users.email_version IS 'Version of email, where later than created_version.';
COMMENT ON COLUMN domain.users.role_version IS 'Version of role, where later than created_version.';
COMMENT ON COLUMN domain.users.display_name_version IS 'Version of display_name, where later than created_version.';
COMMENT ON COLUMN domain.users.bio_version IS 'Version of bio, where later than created_version.';
COMMENT ON COLUMN domain.users.avatar_url_version IS 'Version of avatar_url, where later than created_version.';

COMMENT ON COLUMN domain.skills.skill_id IS 'The skill.';
COMMENT ON COLUMN domain.skills.name IS 'Its name.';
COMMENT ON COLUMN domain.skills.category IS 'What it belongs to.';
COMMENT ON COLUMN domain.skills.description IS 'What it is.';
COMMENT ON COLUMN domain.skills.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.skills.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.skills.name_version IS 'Version of name, where later than created_version.';
COMMENT ON COLUMN domain.skills.category_version IS 'Version of category, where later than created_version.';
COMMENT ON COLUMN domain.skills.description_version IS 'Version of description, where later than created_version.';
COMMENT ON COLUMN domain.skills.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.skills.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.skills.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.skills.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

COMMENT ON COLUMN domain.posts.post_id IS 'The post.';
COMMENT ON COLUMN domain.posts.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.posts.content IS 'The text.';
COMMENT ON COLUMN domain.posts.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.posts.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.posts.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.posts.content_version IS 'Version of content, where later than created_version.';
COMMENT ON COLUMN domain.posts.media_urls_version IS 'Version of media_urls, where later than created_version.';
COMMENT ON COLUMN domain.posts.visibility_version IS 'Version of visibility, where later than created_version.';
COMMENT ON COLUMN domain.posts.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.posts.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.posts.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.posts.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

COMMENT ON COLUMN domain.comments.comment_id IS 'The comment.';
COMMENT ON COLUMN domain.comments.post_id IS 'The post.';
COMMENT ON COLUMN domain.comments.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.comments.parent_comment_id IS 'The comment that this one replies to; NULL: it is on the post itself.';
COMMENT ON COLUMN domain.comments.content IS 'The text.';
COMMENT ON COLUMN domain.comments.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.comments.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.comments.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.comments.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.comments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.payments.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.payments.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.payments.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.payments.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.payments.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.payments.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.payments.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.payments.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.payments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.messages.message_id IS 'The message.';
COMMENT ON COLUMN domain.messages.conversation_id IS 'The conversation.';
COMMENT ON COLUMN domain.messages.sender_id IS 'The user who sent it.';
COMMENT ON COLUMN domain.messages.content IS 'The text.';
COMMENT ON COLUMN domain.messages.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.messages.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.messages.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.messages.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.messages.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.messages.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.follows.follower_id IS 'The user who follows.';
COMMENT ON COLUMN domain.follows.followee_id IS 'The user who is followed.';
COMMENT ON COLUMN domain.follows.following IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.follows.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.follows.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.follows.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.blocks.blocker_id IS 'The user who blocks.';
COMMENT ON COLUMN domain.blocks.blocked_id IS 'The user who is blocked.';
COMMENT ON COLUMN domain.blocks.blocking IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.blocks.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.blocks.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.blocks.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.post_likes.post_id IS 'The post.';
COMMENT ON COLUMN domain.post_likes.user_id IS 'The user who likes the post.';
COMMENT ON COLUMN domain.post_likes.liked IS 'Whether that is so, or was once.';
COMMENT ON COLUMN domain.post_likes.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.post_likes.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.post_likes.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.stories.story_id IS 'The story.';
COMMENT ON COLUMN domain.stories.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.stories.media_url IS 'Address of its picture or video.';
COMMENT ON COLUMN domain.stories.caption IS 'The text beside it.';
COMMENT ON COLUMN domain.stories.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.stories.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.stories.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.videos.video_id IS 'The video.';
COMMENT ON COLUMN domain.videos.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.videos.title IS 'Its title.';
COMMENT ON COLUMN domain.videos.description IS 'What it shows.';
COMMENT ON COLUMN domain.videos.video_url IS 'Its address.';
COMMENT ON COLUMN domain.videos.thumbnail_url IS 'Address of its still.';
COMMENT ON COLUMN domain.videos.duration_seconds IS 'How long it is.';
COMMENT ON COLUMN domain.videos.visibility IS 'Who may see it, in the platform''s own words; NULL: the event did not say.';
COMMENT ON COLUMN domain.videos.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.videos.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.videos.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.tips.tip_id IS 'The tip.';
COMMENT ON COLUMN domain.tips.from_user_id IS 'The user who gives.';
COMMENT ON COLUMN domain.tips.to_user_id IS 'The user who gets.';
COMMENT ON COLUMN domain.tips.post_id IS 'The post that it is for; NULL: none.';
COMMENT ON COLUMN domain.tips.transaction_id IS 'The payment behind it; NULL: none.';
COMMENT ON COLUMN domain.tips.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.tips.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.tips.message IS 'What the giver says.';
COMMENT ON COLUMN domain.tips.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.tips.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.tips.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.refunds.refund_id IS 'The refund.';
COMMENT ON COLUMN domain.refunds.transaction_id IS 'The payment that is refunded.';
COMMENT ON COLUMN domain.refunds.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.refunds.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.refunds.reason IS 'Why, in the words of its sender.';
COMMENT ON COLUMN domain.refunds.refunded_at IS 'When it was refunded, by the event.';
COMMENT ON COLUMN domain.refunds.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.refunds.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.wallets.user_id IS 'The user.';
COMMENT ON COLUMN domain.wallets.currency IS 'The currency.';
COMMENT ON COLUMN domain.wallets.pending IS 'What has come in and cannot be spent yet.';
COMMENT ON COLUMN domain.wallets.updated_at IS 'When the wallet last changed, by the event.';
COMMENT ON COLUMN domain.wallets.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.wallets.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.withdrawals.withdrawal_id IS 'The withdrawal.';
COMMENT ON COLUMN domain.withdrawals.user_id IS 'The user.';
COMMENT ON COLUMN domain.withdrawals.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.withdrawals.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.withdrawals.destination IS 'Where the money is to go.';
COMMENT ON COLUMN domain.withdrawals.requested_at IS 'When the user asked, by the event.';
COMMENT ON COLUMN domain.withdrawals.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.withdrawals.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.subscriptions.subscription_id IS 'The subscription.';
COMMENT ON COLUMN domain.subscriptions.user_id IS 'The user who subscribes.';
COMMENT ON COLUMN domain.subscriptions.tier_id IS 'What the user subscribes to.';
COMMENT ON COLUMN domain.subscriptions.status_reason IS 'Why it has this status, where the event said.';
COMMENT ON COLUMN domain.subscriptions.period_start IS 'When the paid period began.';
COMMENT ON COLUMN domain.subscriptions.period_end IS 'When the paid period ends.';
COMMENT ON COLUMN domain.subscriptions.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.subscriptions.created_version IS 'Version of the event that created the row; NULL in a placeholder.';
COMMENT ON COLUMN domain.subscriptions.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.subscriptions.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.subscriptions.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.subscriptions.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

COMMENT ON COLUMN domain.user_skills.user_id IS 'The user.';
COMMENT ON COLUMN domain.user_skills.skill_id IS 'The skill.';
COMMENT ON COLUMN domain.user_skills.held IS 'Whether the user has it, or had it once.';
COMMENT ON COLUMN domain.user_skills.level IS 'How well, in the words of its sender.';
COMMENT ON COLUMN domain.user_skills.changed_at IS 'When it last changed, by the event.';
COMMENT ON COLUMN domain.user_skills.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.user_skills.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.notifications.notification_id IS 'The notification.';
COMMENT ON COLUMN domain.notifications.user_id IS 'The user who is told.';
COMMENT ON COLUMN domain.notifications.type IS 'What kind it is, in the words of its sender.';
COMMENT ON COLUMN domain.notifications.title IS 'Its title.';
COMMENT ON COLUMN domain.notifications.body IS 'Its text.';
COMMENT ON COLUMN domain.notifications.data IS 'What the application needs to show it.';
COMMENT ON COLUMN domain.notifications.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.notifications.read_at IS 'When the user read it; NULL: not yet.';
COMMENT ON COLUMN domain.notifications.version IS 'Version of the event that wrote the row: 32 bytes that sort as its events do.';
COMMENT ON COLUMN domain.notifications.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.message_reads.message_id IS 'The message.';
COMMENT ON COLUMN domain.message_reads.user_id IS 'The user who read it.';
COMMENT ON COLUMN domain.message_reads.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
COMMENT ON COLUMN domain.message_reads.extra_version IS 'Version of each field of extra, in hexadecimal digits, where later than that of the row''s creation.';

COMMENT ON COLUMN domain.live_users.user_id IS 'The user.';
COMMENT ON COLUMN domain.live_users.username IS 'The name that the user chose.';
COMMENT ON COLUMN domain.live_users.email IS 'The user''s address.';
COMMENT ON COLUMN domain.live_users.role IS 'The role, in the platform''s own words.';
COMMENT ON COLUMN domain.live_users.display_name IS 'The name that others see.';
COMMENT ON COLUMN domain.live_users.bio IS 'What the user says of themselves.';
COMMENT ON COLUMN domain.live_users.avatar_url IS 'Address of the picture.';
COMMENT ON COLUMN domain.live_users.created_at IS 'When the user was created, by the event.';
COMMENT ON COLUMN domain.live_users.extra IS 'Fields of events that have no column here, by their names and as they were sent; NULL: none. Each keeps the value of the newest event that wrote it. Likewise in skills, posts, subscriptions and message_reads; in the other tables the newest event of the row writes all of them.';

COMMENT ON COLUMN domain.live_posts.post_id IS 'The post.';
COMMENT ON COLUMN domain.live_posts.author_id IS 'The user who wrote it.';
COMMENT ON COLUMN domain.live_posts.content IS 'The text.';
COMMENT ON COLUMN domain.live_posts.media_urls IS 'Addresses of its pictures and videos.';
COMMENT ON COLUMN domain.live_posts.visibility IS 'In the platform''s own words and case.';
COMMENT ON COLUMN domain.live_posts.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.live_posts.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.payment_states.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.payment_states.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.payment_states.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.payment_states.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.payment_states.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.payment_states.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.payment_states.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.payment_states.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.payment_states.refunded_amount IS 'What was refunded of it.';
COMMENT ON COLUMN domain.payment_states.status IS 'COMPLETED, PARTIALLY_REFUNDED or REFUNDED.';
COMMENT ON COLUMN domain.payment_states.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.dangling_references.kind IS 'What kind of row it is: user, skill, post and so on.';
COMMENT ON COLUMN domain.dangling_references.id IS 'Its id.';
COMMENT ON COLUMN domain.dangling_references.referenced_by IS 'Type and eventId of the event that first named the row; NULL where that was the one that creates it.';
COMMENT ON COLUMN domain.dangling_references.seen_at IS 'When a transaction first wrote the row, by the database''s clock.';
COMMENT ON COLUMN domain.dangling_references.age IS 'How long ago it was first named.';

COMMENT ON COLUMN domain.active_subscriptions.subscription_id IS 'The subscription.';
COMMENT ON COLUMN domain.active_subscriptions.user_id IS 'The user who subscribes.';
COMMENT ON COLUMN domain.active_subscriptions.tier_id IS 'What the user subscribes to.';
COMMENT ON COLUMN domain.active_subscriptions.status IS 'In the platform''s own words and case, as subscription.created gave it; ACTIVE, CANCELED and EXPIRED where a renewal, a cancellation or an expiry wrote it. Compare it without case.';
COMMENT ON COLUMN domain.active_subscriptions.status_at IS 'Event time of the event that set the status.';
COMMENT ON COLUMN domain.active_subscriptions.period_start IS 'When the paid period began.';
COMMENT ON COLUMN domain.active_subscriptions.period_end IS 'When the paid period ends.';
COMMENT ON COLUMN domain.active_subscriptions.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.active_subscriptions.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.whole_payments.transaction_id IS 'The payment.';
COMMENT ON COLUMN domain.whole_payments.user_id IS 'The user who paid.';
COMMENT ON COLUMN domain.whole_payments.recipient_id IS 'The user who was paid, if it was one.';
COMMENT ON COLUMN domain.whole_payments.reference_id IS 'What was paid for: a subscription, an item; its kind follows from type.';
COMMENT ON COLUMN domain.whole_payments.type IS 'What kind of payment it is: TIP, PURCHASE or SUBSCRIPTION.';
COMMENT ON COLUMN domain.whole_payments.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.whole_payments.currency IS 'NULL: the platform''s own currency. Likewise in tips, refunds and withdrawals.';
COMMENT ON COLUMN domain.whole_payments.completed_at IS 'When it was completed, by the event.';
COMMENT ON COLUMN domain.whole_payments.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';

COMMENT ON COLUMN domain.whole_tips.tip_id IS 'The tip.';
COMMENT ON COLUMN domain.whole_tips.from_user_id IS 'The user who gives.';
COMMENT ON COLUMN domain.whole_tips.to_user_id IS 'The user who gets.';
COMMENT ON COLUMN domain.whole_tips.post_id IS 'The post that it is for; NULL: none.';
COMMENT ON COLUMN domain.whole_tips.transaction_id IS 'The payment behind it; NULL: none.';
COMMENT ON COLUMN domain.whole_tips.amount IS 'The amount; never negative.';
COMMENT ON COLUMN domain.whole_tips.currency IS 'The currency; NULL: the platform''s own.';
COMMENT ON COLUMN domain.whole_tips.message IS 'What the giver says.';
COMMENT ON COLUMN domain.whole_tips.created_at IS 'When it was created, by the event.';
COMMENT ON COLUMN domain.whole_tips.extra IS 'Fields of the event that have no column here, by their names; NULL: none.';
