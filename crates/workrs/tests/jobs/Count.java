import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.HashMap;
import java.util.concurrent.Executors;

/** Counts, with a thread pool that computes and a growing map. */
public class Count {
    public static void main(String[] arguments) throws Exception {
        int steps = Integer.parseInt(System.getenv("STEPS"));
        long pause = (long) (Double.parseDouble(System.getenv("PAUSE")) * 1000);
        var seen = new HashMap<Integer, Long>();
        var pool = Executors.newFixedThreadPool(3);
        for (int n = 1; n <= steps; n++) {
            long before = seen.getOrDefault(n - 1, 1L);
            int step = n;
            long now = pool.submit(() -> {
                long value = before;
                for (int i = 0; i < 1000; i++) value = value * 6364136223846793005L + step;
                return value;
            }).get();
            seen.put(n, now);
            System.out.println(n + " " + Long.toHexString(now));
            Files.writeString(Path.of("lines"), n + "\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
            Thread.sleep(pause);
        }
        pool.shutdown();
        System.out.println("entries " + seen.size());
    }
}
