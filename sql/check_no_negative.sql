-- No balance, now or in the log, is negative or not a number.
SELECT account_id, shard_id, currency_code, available, frozen
FROM ledger.account_balances
WHERE NOT (available >= 0 AND frozen >= 0) OR available = 'NaN' OR frozen = 'NaN'
UNION ALL
SELECT account_id, shard_id, currency_code, available_after, frozen_after
FROM ledger.balance_log
WHERE NOT (available_after >= 0 AND frozen_after >= 0) OR available_after = 'NaN' OR frozen_after = 'NaN';
