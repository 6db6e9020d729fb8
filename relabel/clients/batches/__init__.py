"""Calls that are answered in batches, each tier and retry in one of its own.

client      puts calls off, and has them answered between two passes over the source
spool       which call is in which part, durable: what is under way outlasts any crash
parts       files of requests in the run's folder, one model in each
lines       a line of such a file, and of one that is answered; pure
submitted   parts that a server with OpenAI's Batch API answers (provider: how it is talked to)
written     parts that somebody else answers, such as `vllm run-batch`
intake      from what came back into the ledger
"""
