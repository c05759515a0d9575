-- Can this engine store and push? A write, which a full or read-only engine refuses, and a push.
--
-- KEYS  1 the probe's key
-- ARGV  1 its live channel, in the same slot
--       2 what is pushed
redis.call('SET', KEYS[1], '', 'EX', 60)
redis.call('SPUBLISH', ARGV[1], ARGV[2])
