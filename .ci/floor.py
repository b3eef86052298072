"""floor.py RESULTS.json SHARE: fail unless that share of the cases passes and nothing crashes or hangs."""
import collections
import json
import sys

with open(sys.argv[1], encoding="utf-8") as f:
    results = json.load(f)["results"]
count = collections.Counter(r["result"] for r in results)
print(f"{count['pass']} of {len(results)} pass; " + ", ".join(f"{k} {v}" for k, v in count.most_common() if k != "pass"))
if count["crash"] or count["timeout"] or count["pass"] < float(sys.argv[2]) * len(results):
    sys.exit(1)
