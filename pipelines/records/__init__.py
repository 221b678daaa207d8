"""What a run folder holds: the ledger, logs, results, and the gates and thresholds that judge them."""
