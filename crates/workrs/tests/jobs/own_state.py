"""Counts to 150, keeps its own count in a file and goes on from there when it is started again."""
import os
import time

done = int(open("state").read()) if os.path.exists("state") else 0
print("start at", done, flush=True)
while done < 150:
    done += 1
    print(done, flush=True)
    with open("state.new", "w") as file:
        file.write(str(done))
    os.rename("state.new", "state")
    time.sleep(0.05)
